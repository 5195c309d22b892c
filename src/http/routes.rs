//! Every route on one page, in the order of who uses it.

use actix_web::{guard, web};

use super::{api, download, git, sparse, status, view};

/// A view has of the index what the root has.
fn views(config: &mut web::ServiceConfig) {
    let read = || guard::Any(guard::Get()).or(guard::Head());
    config
        .service(
            web::resource("/view/{view}/index/config.json")
                .guard(read())
                .to(view::config),
        )
        .service(
            web::resource("/view/{view}/index/{path:.*}")
                .guard(read())
                .to(view::file),
        )
        .service(
            web::resource("/view/{view}/api/v1/crates/{crate}/{version}/download")
                .guard(read())
                .to(view::download),
        )
        .service(
            web::resource("/view/{view}/api/v1/crates")
                .guard(read())
                .to(view::search),
        )
        .service(
            web::resource("/view/{view}/git/index/info/refs")
                .guard(read())
                .to(git::info_refs),
        )
        .service(
            web::resource("/view/{view}/git/index/git-upload-pack")
                .guard(guard::Post())
                .to(git::upload_pack),
        )
        .service(web::resource("/view/{view}/git/index/git-receive-pack").to(git::refuse_push))
        .service(web::resource("/view/{view}/git/index/{path:.*}").to(git::refuse_files))
        .service(web::resource("/view/{view}/git/{path:.*}").to(git::elsewhere))
        .service(web::resource("/view/{view}/api/v1/{path:.*}").to(view::refuse))
        .service(web::resource("/view/{view}{path:.*}").to(view::unknown));
}

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    let read = || guard::Any(guard::Get()).or(guard::Head());
    config
        // Used by cargo.
        .service(
            web::resource("/index/config.json")
                .guard(read())
                .to(sparse::config),
        )
        .service(
            web::resource("/index/{path:.*}")
                .guard(read())
                .to(sparse::file),
        )
        .service(
            web::resource("/api/v1/crates/{crate}/{version}/download")
                .guard(read())
                .to(download::download),
        )
        .service(
            web::resource("/api/v1/crates")
                .guard(read())
                .to(api::search),
        )
        // Used by git, and by what cargo has of git inside.
        .service(
            web::resource("/git/index/info/refs")
                .guard(read())
                .to(git::info_refs),
        )
        .service(
            web::resource("/git/index/git-upload-pack")
                .guard(guard::Post())
                .to(git::upload_pack),
        )
        .service(web::resource("/git/index/git-receive-pack").to(git::refuse_push))
        .service(web::resource("/git/index/{path:.*}").to(git::refuse_files))
        .service(web::resource("/git/{path:.*}").to(git::elsewhere))
        .configure(views)
        // Used by cargo, and refused: this is a mirror.
        .service(web::resource("/api/v1/{path:.*}").to(api::refuse))
        // Used by people.
        .service(web::resource("/").guard(read()).to(status::page))
        .service(
            web::resource("/static/{file}")
                .guard(read())
                .to(status::asset),
        )
        // Used by Prometheus and load balancers.
        .service(web::resource("/metrics").guard(read()).to(status::metrics))
        .service(web::resource("/healthz").guard(read()).to(status::healthz))
        .service(web::resource("/readyz").guard(read()).to(status::readyz))
        .default_service(web::to(api::unknown));
}
