//! What being observed costs: CPU of a Route with metrics, a log and traces against none of them, in one run.

use std::path::Path;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::load::{Connections, Shape};
use crate::process::{self, Process, median};

const ROUNDS: usize = 25;
const BUSY: Shape = Shape {
    connections: 4,
    calls_each: 8,
};
const TIME: Duration = Duration::from_millis(1200);

/// An orchestrator and what it costs for each call, round by round.
struct Way {
    name: &'static str,
    process: Process,
    connections: Connections,
    cpu_us: Vec<f64>,
}

/// Prints the table.
pub(crate) fn measure() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let instance = Process::role("echo", &["1".to_owned()]);
    let collector = Process::role("collector", &[]);
    runtime.block_on(async {
        let named = format!("A={}", instance.addresses[0]);
        let endpoint = format!("http://{}", collector.addresses[0]);
        let mut ways = Vec::new();
        for (name, ratio) in [
            ("nothing", ""),
            ("metrics, log at info", "no traces"),
            ("metrics, log at info, traces of 1 %", "0.01"),
            ("metrics, log at info, traces of 10 %, the default", "0.1"),
            ("metrics, log at info, traces of all", "1"),
        ] {
            let process = if ratio.is_empty() {
                Process::role("orchestrator-one-thread", std::slice::from_ref(&named))
            } else {
                let arguments = [endpoint.clone(), ratio.to_owned(), named.clone()];
                Process::role_of(
                    &std::env::current_exe().unwrap(),
                    "orchestrator-observed",
                    &arguments,
                )
            };
            ways.push(Way {
                name,
                connections: Connections::open(process.addresses[0], BUSY.connections).await,
                process,
                cpu_us: Vec::new(),
            });
        }
        for way in &mut ways {
            way.round().await;
            way.cpu_us.clear();
        }
        for round in 0..ROUNDS {
            let count = ways.len();
            for at in 0..count {
                let at = if round % 2 == 0 { at } else { count - 1 - at };
                ways[at].round().await;
            }
        }
        print(&ways);
    });
}

impl Way {
    async fn round(&mut self) {
        let before = self.process.cpu();
        let call = Call::route();
        let calls = self.connections.keep_busy(&call, BUSY.calls_each, TIME);
        let count = calls.await.len();
        let spent = self.process.cpu() - before;
        self.cpu_us.push(spent.as_secs_f64() * 1e6 / count as f64);
    }
}

fn print(ways: &[Way]) {
    println!(
        "Route observed, 1 KiB payload, {} calls at once, one thread, medians of {ROUNDS} rounds\n",
        BUSY.connections * BUSY.calls_each
    );
    println!("| observed by | CPU µs/call | × nothing (rounds) |");
    println!("|---|--:|--:|");
    for way in ways {
        let rounds = way.cpu_us.iter().zip(&ways[0].cpu_us);
        let ratios: Vec<f64> = rounds.map(|(own, none)| own / none).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "| {} | {:.1} | {:.3} ({least:.2}–{most:.2}) |",
            way.name,
            median(way.cpu_us.clone()),
            median(ratios),
        );
    }
    println!();
}

/// Takes every span.
struct Collector;

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        assert!(!request.into_inner().resource_spans.is_empty());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Role: a collector of traces.
pub(crate) fn run_collector(_arguments: &[String]) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        process::tell(&[listener.local_addr().unwrap()]);
        Server::builder()
            .add_service(TraceServiceServer::new(Collector))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
}

/// The config of an orchestrator that is observed.
pub(crate) fn traces(endpoint: &str, ratio: &str) -> Option<orchestrator::config::Traces> {
    let ratio: f64 = ratio.parse().ok()?;
    let text =
        format!(r#"{{"instances": [], "traces": {{"endpoint": "{endpoint}", "ratio": {ratio}}}}}"#);
    let read = orchestrator::config::read_bytes(Path::new("traces"), text.as_bytes(), &|_| None);
    read.unwrap().traces
}
