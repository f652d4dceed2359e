//! The operator's port: metrics, whether the process lives and is ready, and the config that it goes by.
//!
//! It asks for no key and shows no secret. It belongs where only operators and their tools come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time;

use crate::domain::limit::{ADMIN_CONNECTIONS_MAX, ADMIN_HEADERS_TIMEOUT};
use crate::tasks::Tasks;

/// What is shown; each is asked for when somebody looks.
#[derive(Clone)]
pub struct View {
    /// The metrics, in the text format of Prometheus.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether everything runs without which nothing works.
    pub is_alive: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether calls are taken: not once a stop has begun.
    pub is_ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Why nothing that is said in sessions can be kept; none when it can.
    pub sessions_complaint: Arc<dyn Fn() -> Option<&'static str> + Send + Sync>,
    /// The config as JSON, without secrets.
    pub config: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The paths, for whoever calls another one.
const PATHS: &str = "/metrics, /livez, /readyz, /readyz/sessions and /config are here\n";
/// How long no connection is taken when the system has no room for one.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the tasks are stopped.
pub async fn serve(listener: TcpListener, view: View, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, view.clone());
                let connection = tasks.until_stop(connection);
                tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of an operator");
                time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, view: View) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &view);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEADERS_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of an operator has broken");
    }
}

fn answer<B>(request: &Request<B>, view: &View) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let said = "only GET and HEAD are answered here\n".to_owned();
        return response(StatusCode::METHOD_NOT_ALLOWED, plain, said);
    }
    let state = |is_so: bool, yes: &str, no: &str| {
        let (status, word) = if is_so {
            (StatusCode::OK, yes)
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, no)
        };
        response(status, plain, format!("{word}\n"))
    };
    match request.uri().path() {
        "/metrics" => {
            let text = "text/plain; version=0.0.4; charset=utf-8";
            response(StatusCode::OK, text, (view.metrics)())
        }
        "/livez" => state((view.is_alive)(), "alive", "a part has died"),
        // Route and Fanout need no journal: whoever routes by this would take them away too.
        "/readyz" => match (view.sessions_complaint)() {
            Some(complaint) if (view.is_ready)() => {
                let said = format!("ready, but not for sessions: {complaint}\n");
                response(StatusCode::OK, plain, said)
            }
            Some(_) | None => state((view.is_ready)(), "ready", "stopping"),
        },
        "/readyz/sessions" => match (view.sessions_complaint)() {
            Some(complaint) if (view.is_ready)() => state(false, "ready", complaint),
            Some(_) | None => state((view.is_ready)(), "ready", "stopping"),
        },
        "/config" => response(StatusCode::OK, "application/json", (view.config)()),
        _ => response(StatusCode::NOT_FOUND, plain, PATHS.to_owned()),
    }
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn view(is_ready: bool, complaint: Option<&'static str>) -> View {
        View {
            metrics: Arc::new(|| "m 1\n".to_owned()),
            is_alive: Arc::new(|| true),
            is_ready: Arc::new(move || is_ready),
            sessions_complaint: Arc::new(move || complaint),
            config: Arc::new(|| "{}".to_owned()),
        }
    }

    async fn ask(method: Method, path: &str, view: &View) -> (u16, String) {
        let request = Request::builder().method(method).uri(path);
        let response = answer(&request.body(()).unwrap(), view);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_path_says_what_it_is_there_for() {
        let get = async |path, is_ready| ask(Method::GET, path, &view(is_ready, None)).await;
        assert_eq!(get("/metrics", true).await, (200, "m 1\n".to_owned()));
        assert_eq!(get("/livez", false).await, (200, "alive\n".to_owned()));
        assert_eq!(get("/readyz", true).await, (200, "ready\n".to_owned()));
        assert_eq!(get("/readyz", false).await, (503, "stopping\n".to_owned()));
        assert_eq!(get("/config", true).await, (200, "{}".to_owned()));
        assert_eq!(get("/metric", true).await, (404, PATHS.to_owned()));
        let post = ask(Method::POST, "/metrics", &view(true, None)).await;
        assert_eq!(post.0, 405);
    }

    #[tokio::test]
    async fn sessions_have_a_readiness_of_their_own() {
        let get = async |path, is_ready, complaint| {
            let (status, said) = ask(Method::GET, path, &view(is_ready, complaint)).await;
            format!("{status} {said}")
        };
        let full = Some("the disk is full");
        let check = async |is_ready, complaint, whole: &str, sessions: &str| {
            assert_eq!(get("/readyz", is_ready, complaint).await, whole);
            assert_eq!(get("/readyz/sessions", is_ready, complaint).await, sessions);
        };
        check(true, None, "200 ready\n", "200 ready\n").await;
        let but = "200 ready, but not for sessions: the disk is full\n";
        check(true, full, but, "503 the disk is full\n").await;
        check(false, None, "503 stopping\n", "503 stopping\n").await;
        check(false, full, "503 stopping\n", "503 stopping\n").await;
    }
}
