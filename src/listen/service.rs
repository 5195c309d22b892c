//! What answers requests: a service of actix, which each worker makes for itself.

use std::fmt::Debug;

use actix_http::{Request, Response, body::BoxBody};
use actix_service::{Service, ServiceFactory};

/// Answers requests.
pub trait RequestService:
    Service<
        Request,
        Response: Into<Response<BoxBody>> + 'static,
        Error: Into<Response<BoxBody>> + 'static,
        Future: 'static,
    > + 'static
{
}

impl<S> RequestService for S
where
    S: Service<Request> + 'static,
    S::Response: Into<Response<BoxBody>> + 'static,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::Future: 'static,
{
}

/// Makes the service of a worker.
pub trait RequestServiceFactory:
    ServiceFactory<Request, Config = (), Service: RequestService, InitError: Debug, Future: 'static>
    + 'static
{
}

impl<F> RequestServiceFactory for F
where
    F: ServiceFactory<Request, Config = ()> + 'static,
    F::Service: RequestService,
    F::InitError: Debug,
    F::Future: 'static,
{
}
