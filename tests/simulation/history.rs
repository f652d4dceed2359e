//! What happened in one run, in order: what callers asked and got, what instances saw, what the world did.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestrator::domain::health::{Admin, probed};

use crate::ask::Ask;
use crate::operator::Order;
use crate::plan::Link;
use crate::watch::Watched;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// Simulated time since the start.
    pub(crate) at: Duration,
    pub(crate) what: What,
}

impl Record {
    /// As it is shown, and compared.
    pub(crate) fn line(&self) -> String {
        format!("{:>10.6} {:?}", self.at.as_secs_f64(), self.what)
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// A caller begins a call: its connection is open, and the request leaves now.
    Asked(Ask),
    /// The one end of a call, as its caller sees it.
    Ended { call: u32, end: End },
    /// An instance has a whole request.
    Arrived(Arrival),
    /// An instance that fails an execution asks not to be tried again before so many milliseconds have passed;
    /// not at all when that is negative.
    PushedBack { execution: u32, millis: i64 },
    /// The one end of an execution, as its instance sees it.
    Left { execution: u32, how: Left },
    /// An instance has been asked how it is.
    Probed { instance: String, said: Said },
    /// An instance begins to tell of itself; with a number that no execution has.
    WatchBegan {
        instance: String,
        watch: u32,
        watched: Watched,
    },
    /// It tells how it is.
    Told {
        instance: String,
        watch: u32,
        said: Said,
    },
    /// It has ended this, or nobody hears it any more.
    WatchOver { instance: String, watch: u32 },
    /// The operator begins to ask for something, again and again.
    Ordered { instance: String, order: Order },
    /// The operator is told how an instance is after that.
    Heard {
        instance: String,
        order: Order,
        /// What is wanted of it.
        admin: String,
        drained: bool,
        outstanding: u32,
    },
    /// The operator has asked for something that is not work; what came of it: the reason when it was refused.
    Desk {
        what: &'static str,
        took: Duration,
        refused: Option<String>,
    },
    /// What the orchestrator's view of an instance is from now on.
    Seen { instance: String, looks: Looks },
    /// A link loses or holds back what is sent over it.
    Disturbed(Link, Harm),
    /// It no longer does.
    Mended(Link),
    /// An instance has closed a connection, whatever was on its way.
    HungUp(String),
    /// An instance is gone, with everything that it had.
    Crashed(String),
    /// It starts anew.
    Restarted(String),
    /// The faults are over, and everybody is well again.
    Calm,
    /// The orchestrator has stopped.
    Stopped(Remains),
}

/// A request at an instance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arrival {
    /// Tells it from all others.
    pub(crate) execution: u32,
    pub(crate) instance: String,
    /// Read from the payload.
    pub(crate) task: u32,
    /// `idempotency-key`.
    pub(crate) word: Option<String>,
    /// `x-orchestrator-attempt`.
    pub(crate) attempt: u32,
    /// `grpc-timeout`.
    pub(crate) budget: Option<Duration>,
    pub(crate) begun: Begun,
}

/// How an instance looks from within the orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looks {
    pub(crate) admin: Admin,
    pub(crate) probed: probed::State,
    pub(crate) ejected: bool,
}

/// Whether an instance has begun what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    Yes,
    /// It says so too.
    No,
}

/// How an execution ended at its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Answered,
    /// With a status, or with half an answer.
    Failed,
    /// Refused before it had begun.
    Refused,
    /// The orchestrator has reset it.
    Reset,
    /// The connection is gone.
    Lost,
}

/// What an instance says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Serving,
    NotServing,
    /// Nothing, ever.
    Nothing,
}

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// What is sent is lost.
    Loses,
    /// What one side sends is lost.
    LosesOneWay,
    /// What is sent comes later.
    Holds,
}

/// How a call ended for its caller.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// An answer to a Route.
    Answered {
        by: String,
        payload: String,
        attempts: Vec<Tried>,
        /// Whether an earlier call is said to have brought it.
        deduplicated: bool,
        /// Whether what calls said of instances is said to have been ignored.
        panic: bool,
    },
    /// A status of the orchestrator.
    Failed {
        code: String,
        reason: String,
        attempts: Vec<Tried>,
        /// `grpc-retry-pushback-ms`.
        pushback: Option<i64>,
        /// Whether it was turned away because its turn would come too late.
        too_late: bool,
    },
    /// What came of a fan-out, until its caller had enough or the stream was over.
    Streamed(Stream),
    /// No word from the orchestrator: the connection broke.
    Broken,
    /// The caller has ended it.
    LeftEarly,
    /// The caller has waited for longer than it wanted to.
    GaveUp,
}

/// One try, as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tried {
    pub(crate) instance: String,
    pub(crate) kind: String,
    /// When it began, counted from the arrival of the call.
    pub(crate) offset: Duration,
    pub(crate) elapsed: Duration,
    /// The reason of its failure.
    pub(crate) failure: Option<String>,
}

/// What came of a fan-out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stream {
    pub(crate) roster: Option<Vec<String>>,
    pub(crate) partials: Vec<Part>,
    pub(crate) summary: Option<Sum>,
    /// Things that came out of order.
    pub(crate) misplaced: Vec<String>,
    pub(crate) verdict: Verdict,
}

/// How a stream ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Verdict {
    #[default]
    Ok,
    Failed {
        code: String,
        reason: String,
        pushback: Option<i64>,
    },
    Broken,
    LeftEarly,
    GaveUp,
}

/// The outcome of one target.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub(crate) instance: String,
    pub(crate) outcome: String,
    pub(crate) payload: Option<String>,
    pub(crate) failure: Option<String>,
    pub(crate) attempts: Vec<Tried>,
}

/// The summary of a fan-out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sum {
    /// Answered, failed, timed out, cancelled, skipped.
    pub(crate) counts: [u32; 5],
    pub(crate) missing: Vec<String>,
    pub(crate) aggregate: Vec<Part>,
    pub(crate) stop: String,
}

/// What an orchestrator leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remains {
    /// Whether nothing had to be cut.
    pub(crate) clean: bool,
    pub(crate) tasks: usize,
    /// Bytes of messages that are still accounted for.
    pub(crate) bytes_held: usize,
    /// Whether calls still have a place.
    pub(crate) admitted: bool,
    /// Calls that are with instances, by its own account.
    pub(crate) outstanding: u32,
}

/// A history as it is being written. Clones are the same history.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    records: Vec<Record>,
    /// Calls that have begun and not ended.
    open: usize,
    asked: usize,
    has_stopped: bool,
    is_stopping: bool,
}

impl History {
    /// Notes what happens now; only within a simulated host.
    pub(crate) fn note(&self, what: What) {
        let at = turmoil::sim_elapsed().expect("a host of the simulation");
        self.note_at(at, what);
    }

    pub(crate) fn note_at(&self, at: Duration, what: What) {
        let mut written = self.0.lock().unwrap();
        match what {
            What::Asked(_) => {
                written.asked += 1;
                written.open += 1;
            }
            What::Stopped(_) => written.has_stopped = true,
            What::Ended { .. } => written.open = written.open.saturating_sub(1),
            _ => {}
        }
        written.records.push(Record { at, what });
    }

    /// Calls that have begun, and those of them that have not ended.
    pub(crate) fn calls(&self) -> (usize, usize) {
        let written = self.0.lock().unwrap();
        (written.asked, written.open)
    }

    /// How often an instance was probed since then.
    pub(crate) fn probes_since(&self, since: Duration, id: &str) -> usize {
        let written = self.0.lock().unwrap();
        let recent = written.records.iter().rev();
        recent
            .take_while(|record| since <= record.at)
            .filter(
                |record| matches!(&record.what, What::Probed { instance, .. } if instance == id),
            )
            .count()
    }

    /// The orchestrator is about to be told to stop.
    pub(crate) fn note_stopping(&self) {
        self.0.lock().unwrap().is_stopping = true;
    }

    /// Whether it is.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.lock().unwrap().is_stopping
    }

    /// Whether the orchestrator has stopped.
    pub(crate) fn has_stopped(&self) -> bool {
        self.0.lock().unwrap().has_stopped
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.0.lock().unwrap().records.clone()
    }
}

/// A number for the whole history: the same one when everything happened in the same way at the same time.
pub(crate) fn fingerprint(lines: &[String]) -> u64 {
    // FNV-1a: the hasher of the standard library is not promised to stay as it is.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for line in lines {
        for byte in line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
