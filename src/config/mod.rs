//! What an orchestrator is told, at its start and while it runs, as it is meant. `raw` reads what was written, `check`
//! turns it into this and tells all mistakes at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::domain::admission::{self, Quota, Rate};
use crate::domain::health::{self, Admin};
use crate::domain::hedge;
use crate::domain::id::InstanceId;
use crate::domain::limit::{
    CALLS_IN_FLIGHT_DEFAULT, CALLS_WAITING_DEFAULT, CONFIG_BYTES_MAX, LEGS_IN_FLIGHT_DEFAULT,
    LINK_STREAMS_MAX, LINKS_PER_INSTANCE_MAX, SESSION_IDLE_TTL_DEFAULT, SESSIONS_MAX,
    STORE_BYTES_MAX,
};
use crate::domain::retry;
use crate::fleet::registration::TakeOver;
use crate::fleet::{ProbeSettings, network};
use crate::ingress::caller::{Keys, Reflection};
use crate::ingress::cors::Cors;
use crate::ingress::listener::{Address, Limits, secure};
use crate::ingress::methods::Timeouts;
use crate::ingress::visitor::Forwarder;
use crate::instance::Spec;
use crate::instance::builtin::Behaviour;
use crate::instance::endpoint::Endpoint;
use crate::instance::tls;
use crate::orchestrate::hold_session;
use crate::telemetry::trace;

mod changes;
mod check;
mod exposure;
mod keys;
mod mistake;
mod raw;
mod schema;
mod shown;
mod watch;

pub use changes::{Changes, Named};
pub use exposure::{Exposed, Plaintext, refuse_exposure};
pub use keys::{NoKey, Settled, make_key, settle_keys};
pub use mistake::{Mistake, Mistakes, Position};
pub use schema::schema;
pub use watch::{Look, Watch};

/// Reads a config file, and the files and variables that it points to; tells all mistakes at once.
/// `environment` is asked for a variable's value.
pub fn read(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Mistakes> {
    Reader::new(environment).read(path)
}

/// As `read`, of a config that was read already; `path` is what it is called.
pub fn read_bytes(
    path: &Path,
    bytes: &[u8],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Mistakes> {
    Reader::new(environment).read_bytes(path, bytes)
}

/// What the command line says, which wins over the config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Where to listen.
    pub listen: Option<Address>,
    /// Where plain text may be spoken.
    pub plaintext: Option<Plaintext>,
}

/// Reads configs.
pub struct Reader<'a> {
    /// Is asked for the value of a variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// What the config is read together with.
    pub command_line: CommandLine,
    /// Every other file that was looked into, whether or not it could be read.
    pub files: RefCell<Vec<PathBuf>>,
}

impl<'a> Reader<'a> {
    /// One beside an empty command line.
    #[must_use]
    pub fn new(environment: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            environment,
            command_line: CommandLine::default(),
            files: RefCell::default(),
        }
    }

    /// Reads a config file, and the files and variables that it points to; tells all mistakes at once.
    pub fn read(&self, path: &Path) -> Result<Config, Mistakes> {
        let bytes = check::read(path, CONFIG_BYTES_MAX)
            .map_err(|error| Mistakes::of_file(path, format!("cannot be read: {error}")))?
            .ok_or_else(|| too_large(path))?;
        self.meant(path, &bytes)
    }

    /// As `read`, of a config that was read already; `path` is what it is called.
    pub fn read_bytes(&self, path: &Path, bytes: &[u8]) -> Result<Config, Mistakes> {
        if CONFIG_BYTES_MAX < bytes.len() as u64 {
            return Err(too_large(path));
        }
        self.meant(path, bytes)
    }

    fn meant(&self, path: &Path, bytes: &[u8]) -> Result<Config, Mistakes> {
        let (text, is_whole) = match str::from_utf8(bytes) {
            Ok(text) => (text, true),
            Err(error) => (
                str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
                false,
            ),
        };
        let notes = mistake::Notes::new(text);
        let surroundings = check::Surroundings {
            folder: path.parent().unwrap_or(Path::new("")),
            environment: self.environment,
            command_line: &self.command_line,
            files: &self.files,
        };
        if !is_whole {
            notes.note(text.len(), "", "not JSON: the bytes here are no UTF-8");
            return notes.settle(path, Config::empty());
        }
        let config = match raw::parse(text) {
            Ok(item) => Config {
                shown: shown::without_secrets(text),
                ..check::config(&item, &notes, surroundings)
            },
            Err(raw::Syntax { at, what }) => {
                notes.note(at, "", &what);
                Config::empty()
            }
        };
        notes.settle(path, config)
    }
}

fn too_large(path: &Path) -> Mistakes {
    Mistakes::of_file(path, format!("is larger than {CONFIG_BYTES_MAX} bytes"))
}

/// Everything that an orchestrator is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: Address,
    /// The permissions of the socket, where it listens on one in the file system.
    pub socket_mode: u32,
    /// How it speaks TLS; plain text when absent.
    pub tls: Option<secure::Settings>,
    /// Where plain text may be spoken.
    pub plaintext: Plaintext,
    /// The instances that stay as long as it runs.
    pub instances: Vec<Planned>,
    /// Those of them that do not begin as active.
    pub admin: BTreeMap<InstanceId, Admin>,
    /// Who may call.
    pub keys: Keys,
    /// Who may say who is calling.
    pub forwarders: Vec<Forwarder>,
    /// Which pages may call from a browser; none without it.
    pub cors: Option<Arc<Cors>>,
    /// How instances are probed.
    pub probe: ProbeSettings,
    /// How their health is judged.
    pub health: health::Settings,
    /// Where registered instances may be.
    pub networks: Vec<IpNet>,
    /// Who may take over the name of a registered instance.
    pub take_over: TakeOver,
    /// Limits of the front door.
    pub limits: Limits,
    /// How much work is taken.
    pub admission: Admission,
    /// How tasks are tried again.
    pub retry: retry::Settings,
    /// How often tasks are sent to a second instance while the first works on them.
    pub hedging: hedge::Settings,
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// How it stops.
    pub shutdown: Shutdown,
    /// Where sessions are kept.
    pub journal: Journal,
    /// How sessions are kept.
    pub sessions: Sessions,
    /// Where operators see metrics and health; nowhere without it.
    pub operators: Option<SocketAddr>,
    /// What traces are recorded, and where they go; none without it.
    pub traces: Option<Traces>,
    /// The config as it was written, as JSON without secrets.
    pub shown: Arc<str>,
}

/// What traces are recorded, and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// Which, and whose they are.
    pub settings: trace::Settings,
    /// Who collects them.
    pub collector: Collector,
}

/// Where a collector of traces is, how it is trusted, and what it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Where it listens; it speaks gRPC.
    pub endpoint: Endpoint,
    /// How it is trusted, over TLS.
    pub tls: tls::Settings,
    /// What goes with every batch; secrets among it are marked as such.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long it may take for one batch.
    pub timeout: Duration,
}

/// How sessions are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// The folder of the journal, unless the command line names one.
    pub data_directory: Option<PathBuf>,
    /// The idle TTL of a session that names none.
    pub idle_ttl: Duration,
    /// Sessions that are remembered, closed ones included.
    pub sessions_max: usize,
    /// Bytes of all sessions that the journal keeps.
    pub journal_bytes_max: usize,
    /// What holds for each session.
    pub each: hold_session::Settings,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            data_directory: None,
            idle_ttl: SESSION_IDLE_TTL_DEFAULT,
            sessions_max: SESSIONS_MAX,
            journal_bytes_max: STORE_BYTES_MAX,
            each: hold_session::Settings::default(),
        }
    }
}

/// Where sessions are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Journal {
    /// In memory: they end with the orchestrator.
    Memory,
    /// In a file in this folder, which is made when it is not there.
    Folder(PathBuf),
}

/// An instance of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// It runs elsewhere.
    Remote(Spec),
    /// It runs in this process.
    Builtin(Builtin),
}

/// An instance that runs in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builtin {
    /// Its name.
    pub id: InstanceId,
    /// Free words about it.
    pub labels: BTreeMap<String, String>,
    /// Its share of BALANCED work.
    pub weight: u32,
    /// Calls that may be with it at once; what all instances may have when it says nothing.
    pub calls_in_flight_max: Option<u32>,
    /// How it behaves.
    pub behaviour: Behaviour,
}

/// How much work is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Calls that run, come and wait.
    pub calls: admission::Limits,
    /// Calls that may be at once with an instance that has no limit of its own.
    pub instance_calls_max: u32,
    /// How fast calls may come to one instance.
    pub instance_rate: Option<Rate>,
    /// Bytes of all messages that are held; a share of the memory where nothing is said.
    pub buffered_bytes: Option<usize>,
}

impl Default for Admission {
    fn default() -> Self {
        let all = Quota {
            in_flight_max: CALLS_IN_FLIGHT_DEFAULT,
            rate: None,
        };
        Self {
            calls: admission::Limits {
                all,
                each: all,
                legs_max: LEGS_IN_FLIGHT_DEFAULT,
                waiting_max: CALLS_WAITING_DEFAULT,
            },
            // As many as there are streams on its links: no more of them could be sent.
            instance_calls_max: (LINKS_PER_INSTANCE_MAX * LINK_STREAMS_MAX) as u32,
            instance_rate: None,
            buffered_bytes: None,
        }
    }
}

/// How an orchestrator stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long it says that it is not ready before it turns callers away.
    pub not_ready_for: Duration,
    /// How long running calls may go on after that.
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            not_ready_for: Duration::ZERO,
            grace: Duration::from_secs(30),
        }
    }
}

/// Where an orchestrator listens that is told nothing.
pub const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

impl Planned {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        match self {
            Self::Remote(spec) => &spec.id,
            Self::Builtin(builtin) => &builtin.id,
        }
    }
}
/// Its owner and nobody else.
const SOCKET_MODE_DEFAULT: u32 = 0o600;

impl Config {
    /// Takes what the command line says, which wins.
    pub fn obey(&mut self, command_line: &CommandLine) {
        if let Some(listen) = &command_line.listen {
            self.listen = listen.clone();
        }
        if let Some(plaintext) = command_line.plaintext {
            self.plaintext = plaintext;
        }
    }

    /// The embedded default: eight built-in instances, A to H, on loopback. It has no key yet.
    #[must_use]
    pub fn embedded() -> Self {
        let builtin = |id: &str| {
            let id = InstanceId::parse(id).ok()?;
            let behaviour = Behaviour::default();
            Some(Planned::Builtin(Builtin {
                id,
                labels: BTreeMap::new(),
                weight: 1,
                calls_in_flight_max: None,
                behaviour,
            }))
        };
        Self {
            instances: ["A", "B", "C", "D", "E", "F", "G", "H"]
                .into_iter()
                .filter_map(builtin)
                .collect(),
            ..Self::empty()
        }
    }

    /// No instances, no keys, and the default of everything else.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            listen: Address::Tcp(LISTEN_DEFAULT),
            socket_mode: SOCKET_MODE_DEFAULT,
            tls: None,
            plaintext: Plaintext::default(),
            instances: Vec::new(),
            admin: BTreeMap::new(),
            keys: Keys {
                keys: Vec::new(),
                identities: Vec::new(),
                reflection: Reflection::default(),
            },
            forwarders: Vec::new(),
            cors: None,
            probe: ProbeSettings::default(),
            health: health::Settings::default(),
            networks: network::loopback(),
            take_over: TakeOver::default(),
            limits: Limits::default(),
            admission: Admission::default(),
            retry: retry::Settings::default(),
            hedging: hedge::Settings::default(),
            timeouts: Timeouts::default(),
            shutdown: Shutdown::default(),
            journal: Journal::Memory,
            sessions: Sessions::default(),
            operators: None,
            traces: None,
            shown: "{}".into(),
        }
    }
}

#[cfg(test)]
mod tests;
