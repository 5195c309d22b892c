//! Requests and reports in JSON, as they cross the admin socket.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    error::{Fault, JobError},
    job::{Job, JobReport},
};

/// A request for a job in JSON: `{"command":"gc","dry_run":true}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobRequest {
    pub(super) command: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl JobRequest {
    /// The request for `job`.
    ///
    /// # Errors
    /// Where it is no JSON object, which is a defect.
    pub fn of<J: Job>(job: &J) -> Result<JobRequest, JobError> {
        Ok(JobRequest {
            command: J::NAME.to_owned(),
            fields: fields_of(job)?,
        })
    }

    pub(super) fn read<J: Job>(self) -> Result<J, JobError> {
        serde_json::from_value(Value::Object(self.fields)).map_err(|error| {
            let what = format!("the request for `{}` is not understood", self.command);
            JobError::new(Fault::Usage, what).because(&error)
        })
    }
}

/// A report as `--json` prints it, its fields in their own order: `{"report":"gc","dry_run":true,…}`.
#[derive(Debug, Serialize)]
pub struct PrintedReport<'a, R> {
    report: &'static str,
    #[serde(flatten)]
    fields: &'a R,
}

impl<R: JobReport> PrintedReport<'_, R> {
    /// What is printed of `report`.
    pub fn of(report: &R) -> PrintedReport<'_, R> {
        PrintedReport {
            report: R::NAME,
            fields: report,
        }
    }
}

/// The same on its way through the socket, where fields have no order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportJson {
    report: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl ReportJson {
    /// The JSON of `report`.
    ///
    /// # Errors
    /// Where it is no JSON object, which is a defect.
    pub fn of<R: JobReport>(report: &R) -> Result<ReportJson, JobError> {
        Ok(ReportJson {
            report: R::NAME.to_owned(),
            fields: fields_of(report)?,
        })
    }

    /// The report itself.
    ///
    /// # Errors
    /// Where it is another one.
    pub fn read<R: JobReport>(self) -> Result<R, JobError> {
        if self.report != R::NAME {
            let what = format!("the report is `{}` and not `{}`", self.report, R::NAME);
            return Err(JobError::new(Fault::Unavailable, what));
        }
        serde_json::from_value(Value::Object(self.fields)).map_err(|error| {
            let what = format!("the report `{}` is not understood", self.report);
            JobError::new(Fault::Unavailable, what).because(&error)
        })
    }
}

fn fields_of(value: &impl Serialize) -> Result<Map<String, Value>, JobError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) | Err(_) => Err(JobError::new(
            Fault::Unavailable,
            "internal error: a request or report is no JSON object",
        )),
    }
}
