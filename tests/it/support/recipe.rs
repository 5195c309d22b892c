//! Real nginx and Caddy before a real orlop, by the recipes of `packaging/`, on loopback.
//!
//! What an operator replaces is replaced (name, certificate, ports), the orlop beside it has the
//! settings that stand at the top of the recipe, and not a line more is changed.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    PATIENCE,
    cargo::Project,
    orlop::{Orlop, Setup, write_file},
    peer_may_be_gone,
    tcp::Wire,
    tls::Papers,
};

/// Which program stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Nginx,
    Caddy,
}

/// One recipe as it is shipped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) program: Program,
    /// Below `packaging/`.
    pub(crate) file: &'static str,
    /// The name that an operator replaces.
    name: &'static str,
    /// What of the URL belongs to orlop, without a slash at its end.
    pub(crate) prefix: &'static str,
}

/// The path that an operator replaces.
const SHIPPED_PREFIX: &str = "/rust";

pub(crate) const RECIPES: [Recipe; 4] = [
    Recipe {
        program: Program::Nginx,
        file: "nginx/orlop.conf",
        name: "crates.lab.example",
        prefix: "",
    },
    Recipe {
        program: Program::Nginx,
        file: "nginx/orlop-sub-path.conf",
        name: "tools.lab.example",
        prefix: SHIPPED_PREFIX,
    },
    Recipe {
        program: Program::Caddy,
        file: "caddy/Caddyfile",
        name: "crates.lab.example",
        prefix: "",
    },
    Recipe {
        program: Program::Caddy,
        file: "caddy/Caddyfile.sub-path",
        name: "tools.lab.example",
        prefix: SHIPPED_PREFIX,
    },
];

/// What nginx has around a file of `conf.d`: Debian's nginx.conf, as far as it matters here.
const NGINX: &str = "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\n\
    events {}\n\
    http {\n\
    log_format protocol '$server_protocol $status $request_method $request_uri';\n\
    access_log access.log protocol;\n\
    gzip on;\n\
    gzip_types *;\n\
    include conf.d/*.conf;\n\
    }\n";

/// What keeps Caddy from all but this one site.
const CADDY: &str = "{\n\tadmin off\n\tauto_https disable_redirects\n\
    \tdefault_bind 127.0.0.1\n\tgrace_period 1s\n}\n";

impl Recipe {
    /// The same with another path before orlop's own.
    pub(crate) fn below(self, prefix: &'static str) -> Recipe {
        assert!(!self.prefix.is_empty(), "a recipe of a path");
        Recipe { prefix, ..self }
    }

    fn text(&self) -> String {
        let text = fs::read_to_string(packaging().join(self.file));
        let text = text.expect("the recipe is in the checkout");
        let is_other = !self.prefix.is_empty() && self.prefix != SHIPPED_PREFIX;
        if is_other {
            text.replace(SHIPPED_PREFIX, self.prefix)
        } else {
            text
        }
    }

    /// The settings of orlop that the recipe asks for, as a file.
    fn settings(&self, name: &str) -> String {
        let text = self.text();
        let lines = text.lines().take_while(|line| line.starts_with('#'));
        let lines: Vec<&str> = lines
            .filter_map(|line| line.strip_prefix("#   "))
            .filter(|line| line.contains(" = ") || line.starts_with('['))
            .collect();
        assert!(lines.len() >= 4, "{}: {lines:?}", self.file);
        lines.join("\n").replace(self.name, name)
    }
}

/// orlop with a program before it; both end when dropped.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) recipe: Recipe,
    pub(crate) orlop: Orlop,
    /// Between the two.
    pub(crate) wire: Wire,
    /// Of plain http, where the recipe has that.
    pub(crate) plain: SocketAddr,
    port: u16,
    folder: TempDir,
    child: Child,
    runtime: Runtime,
    client: reqwest::Client,
}

impl Behind {
    /// The recipe as it is shipped.
    pub(crate) fn new(recipe: Recipe, setup: &Setup) -> Self {
        Self::changed(recipe, setup, |text| text, |settings| settings)
    }

    /// With these changes to the recipe and to orlop's settings file.
    pub(crate) fn changed(
        recipe: Recipe,
        setup: &Setup,
        change: impl Fn(String) -> String,
        settings: impl Fn(String) -> String,
    ) -> Self {
        let mut said = String::new();
        // Somebody else may take a free port before the program does.
        for _ in 0..5 {
            match Self::on_free_ports(recipe, setup.clone(), &change, &settings) {
                Ok(behind) => return behind,
                Err(why) => said = why,
            }
        }
        panic!("{}: {said}", recipe.file);
    }

    fn on_free_ports(
        recipe: Recipe,
        setup: Setup,
        change: &impl Fn(String) -> String,
        settings: &impl Fn(String) -> String,
    ) -> Result<Self, String> {
        let (port, plain) = (free_port(), free_port());
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let settings = settings(recipe.settings(&format!("localhost:{port}")));
        let settings = write_file(folder.path(), "orlop.toml", &settings);
        let settings = settings.to_string_lossy().into_owned();
        let orlop = setup.argument("--config").argument(&settings).start();
        let wire = Wire::to(orlop.address());
        let papers = Papers::new("localhost", (1975, 4096));
        for (file, text) in [
            ("ca.pem", &papers.ca),
            ("server.pem", &papers.certificate.pem()),
            ("server.key", &papers.key.serialize_pem()),
        ] {
            write_file(folder.path(), file, text);
        }
        let text = change(recipe.text())
            .replace("127.0.0.1:8080", &wire.address().to_string())
            .replace(
                &format!("/etc/ssl/orlop/{}", recipe.name),
                &folder.path().join("server").to_string_lossy(),
            );
        let mut command = match recipe.program {
            Program::Nginx => nginx(folder.path(), recipe, &text, (port, plain)),
            Program::Caddy => caddy(folder.path(), recipe, &text, port),
        };
        let mut child = command.spawn().expect("nginx and Caddy are installed");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if !answers(&mut child, address) {
            let said = fs::read_to_string(folder.path().join("stderr"));
            return Err(said.unwrap_or_default());
        }
        Ok(Self {
            recipe,
            orlop,
            wire,
            plain: SocketAddr::from(([127, 0, 0, 1], plain)),
            port,
            child,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made"),
            client: client(&papers.ca),
            folder,
        })
    }

    /// Scheme, name and port.
    pub(crate) fn origin(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The base URL of orlop, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.origin(), self.recipe.prefix)
    }

    /// The certificate of the authority, as PEM.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What nginx wrote of each request: protocol, status, method, path.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }

    /// A project whose cargo trusts the authority and takes crates through here.
    pub(crate) fn project(&self, dependencies: &str, index: &str) -> Project {
        let project = Project::new(dependencies);
        let ca = self.ca_file();
        project.write(
            "../.gitconfig",
            &format!("[http]\nsslCAInfo = {}\n", ca.display()),
        );
        project.configured(&format!(
            "[source.crates-io]\nreplace-with = \"orlop\"\n\n\
             [registries.orlop]\nindex = \"{index}\"\n\n[http]\ncainfo = \"{}\"\n",
            ca.display()
        ))
    }

    /// Asks over TLS and HTTP/2 for a path below orlop's, and reads the answer to its end.
    #[track_caller]
    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Got {
        match self.ask(reqwest::Method::GET, path, headers, Vec::new()) {
            Ok(got) => got,
            Err(error) => panic!("{}: no answer to {path}: {error:?}", self.recipe.file),
        }
    }

    /// The same with any method and a body; `Err`: the answer did not come whole.
    pub(crate) fn ask(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> reqwest::Result<Got> {
        let url = format!("{}{path}", self.url());
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let answer = request.send().await?;
            Ok(Got {
                version: answer.version(),
                status: answer.status().as_u16(),
                headers: answer.headers().clone(),
                body: answer.bytes().await?.to_vec(),
            })
        })
    }

    /// Reads the first so many bytes of an answer that has not come to its end, then does
    /// `meanwhile` and reads the rest.
    pub(crate) fn in_two_parts(
        &self,
        path: &str,
        first: usize,
        meanwhile: impl FnOnce(),
    ) -> Vec<u8> {
        let asked = async {
            let mut answer = self
                .client
                .get(format!("{}{path}", self.url()))
                .send()
                .await?;
            let mut body = Vec::new();
            while body.len() < first {
                let Some(piece) = answer.chunk().await? else {
                    break;
                };
                body.extend_from_slice(&piece);
            }
            meanwhile();
            while let Some(piece) = answer.chunk().await? {
                body.extend_from_slice(&piece);
            }
            Ok::<_, reqwest::Error>(body)
        };
        let asked = async { tokio::time::timeout(PATIENCE, asked).await };
        let read = self.runtime.block_on(asked);
        read.expect("the first part comes before the last")
            .expect("an answer that is whole")
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        peer_may_be_gone(self.child.kill());
        peer_may_be_gone(self.child.wait());
    }
}

/// An answer that came whole.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) version: reqwest::Version,
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a listener has an address");
    address.port()
}

fn nginx(folder: &Path, recipe: Recipe, text: &str, (port, plain): (u16, u16)) -> Command {
    let lines = text.lines().filter(|line| !line.contains("listen [::]:"));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let text = text
        .replace("listen 443 ", &format!("listen 127.0.0.1:{port} "))
        .replace("listen 80;", &format!("listen 127.0.0.1:{plain};"))
        .replace(recipe.name, "localhost");
    assert!(!text.contains("listen 443") && !text.contains("lab.example;"));
    write_file(folder, "conf.d/orlop.conf", &text);
    let snippet = fs::read_to_string(packaging().join("nginx/orlop-proxy.conf"));
    let snippet = snippet.expect("the recipe is in the checkout");
    write_file(folder, "snippets/orlop-proxy.conf", &snippet);
    // As root nginx gives its rights up to a user who may not read this folder.
    let user = if rustix::process::geteuid().is_root() {
        "user root root;\n"
    } else {
        ""
    };
    let main = write_file(folder, "nginx.conf", &format!("{user}{NGINX}"));
    let mut command = program("nginx", folder);
    command.arg("-p").arg(folder).arg("-c").arg(main);
    command.args(["-e", "stderr"]);
    command
}

fn caddy(folder: &Path, recipe: Recipe, text: &str, port: u16) -> Command {
    let site = format!("\nhttps://localhost:{port} {{\n");
    let text = text.replace(&format!("\n{} {{\n", recipe.name), &site);
    assert!(text.contains(&site));
    let file = write_file(folder, "Caddyfile", &format!("{CADDY}{text}"));
    let mut command = program("caddy", folder);
    command.arg("run").arg("--adapter").arg("caddyfile");
    command.arg("--config").arg(file);
    command
}

fn program(name: &str, folder: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let errors = fs::File::create(folder.join("stderr")).expect("a temporary folder takes files");
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", format!("{path}:/usr/sbin"))
        .env("HOME", folder)
        .env("XDG_DATA_HOME", folder)
        .env("XDG_CONFIG_HOME", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    command
}

/// Whether it takes connections; it has ended if it does not.
fn answers(child: &mut Child, address: SocketAddr) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if child
            .try_wait()
            .expect("a child can be waited for")
            .is_some()
        {
            return false;
        }
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    peer_may_be_gone(child.kill());
    peer_may_be_gone(child.wait());
    false
}

fn client(ca: &str) -> reqwest::Client {
    // Whoever came first has the same one.
    peer_may_be_gone(rustls::crypto::ring::default_provider().install_default());
    let ca = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
    reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .no_gzip()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build()
        .expect("a client can be made")
}
