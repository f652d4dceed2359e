//! How an instance may feel: what it says of itself, and what it does with a task.

use rand::RngExt as _;
use rand::rngs::SmallRng;

/// How an instance feels for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mood {
    pub(crate) says: Says,
    /// What it does, each with its share.
    pub(crate) does: &'static [(u32, Act)],
}

/// What it says when it is asked whether it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    Serving,
    NotServing,
    /// Now this, now that.
    Either,
    Nothing,
}

/// What an instance does with a task. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Answers after at most this long.
    Answer(u64),
    /// Never answers.
    Stall,
    /// Fails with this status after at most this long.
    Fail(u16, u64),
    /// UNAVAILABLE, and word of when to come again.
    PushBack(i64),
    /// REFUSED_STREAM: it has not begun.
    Refuse,
    /// Begins an answer and resets it.
    HalfAnswer,
    /// A message shorter than it says.
    CutMessage,
    /// An answer without trailers.
    NoTrailers,
    /// OK without a message.
    EmptyAnswer,
    /// Drops the connection.
    Hangup,
    /// Takes no new calls on this connection, and answers.
    GoAway,
    /// Takes no new calls on this connection, and ends it.
    GoAwayAtOnce,
}

impl Mood {
    pub(crate) fn act(&self, dice: &mut SmallRng) -> Act {
        let sum: u32 = self.does.iter().map(|(share, _)| share).sum();
        let mut at = dice.random_range(0..sum);
        for (share, act) in self.does {
            if at < *share {
                return *act;
            }
            at -= share;
        }
        Act::Answer(0)
    }
}

const UNAVAILABLE: u16 = 14;
const RESOURCE_EXHAUSTED: u16 = 8;
const INTERNAL: u16 = 13;
const INVALID_ARGUMENT: u16 = 3;
const CANCELLED: u16 = 1;
const UNAUTHENTICATED: u16 = 16;

/// It does what it should.
pub(crate) const WELL: Mood = Mood {
    says: Says::Serving,
    does: &[(1, Act::Answer(15))],
};
/// It takes its time.
pub(crate) const SLOW: Mood = Mood {
    says: Says::Serving,
    does: &[(1, Act::Answer(300))],
};

const STALLS: Mood = Mood {
    says: Says::Serving,
    does: &[(1, Act::Stall), (1, Act::Answer(20))],
};
const REFUSES: Mood = Mood {
    says: Says::Serving,
    does: &[(3, Act::Refuse), (1, Act::Answer(20))],
};
const GOES_AWAY: Mood = Mood {
    says: Says::Serving,
    does: &[
        (1, Act::GoAway),
        (1, Act::GoAwayAtOnce),
        (4, Act::Answer(40)),
    ],
};
const FAILS: Mood = Mood {
    says: Says::Serving,
    does: &[
        (4, Act::Fail(UNAVAILABLE, 10)),
        (1, Act::Fail(RESOURCE_EXHAUSTED, 10)),
        (1, Act::Fail(INTERNAL, 10)),
        (1, Act::Fail(INVALID_ARGUMENT, 10)),
        (1, Act::Fail(CANCELLED, 10)),
        (1, Act::Fail(UNAUTHENTICATED, 10)),
        (2, Act::Answer(10)),
    ],
};
const PUSHES_BACK: Mood = Mood {
    says: Says::Serving,
    does: &[
        (2, Act::PushBack(30)),
        (2, Act::PushBack(150)),
        (1, Act::PushBack(-1)),
        (1, Act::PushBack(5000)),
        (1, Act::Answer(10)),
    ],
};
const HALF_ANSWERS: Mood = Mood {
    says: Says::Serving,
    does: &[
        (1, Act::HalfAnswer),
        (1, Act::CutMessage),
        (1, Act::NoTrailers),
        (1, Act::EmptyAnswer),
        (2, Act::Answer(10)),
    ],
};
const HANGS_UP: Mood = Mood {
    says: Says::Serving,
    does: &[(1, Act::Hangup), (3, Act::Answer(30))],
};
/// It works, and says that it does not serve.
pub(crate) const SAYS_IT_IS_OUT: Mood = Mood {
    says: Says::NotServing,
    does: &[(1, Act::Answer(10))],
};
const SAYS_THIS_AND_THAT: Mood = Mood {
    says: Says::Either,
    does: &[(3, Act::Answer(10)), (1, Act::Fail(UNAVAILABLE, 10))],
};
const SAYS_NOTHING: Mood = Mood {
    says: Says::Nothing,
    does: &[(1, Act::Stall), (1, Act::Answer(10))],
};
const DOES_ANYTHING: Mood = Mood {
    says: Says::Serving,
    does: &[
        (1, Act::Stall),
        (1, Act::Refuse),
        (1, Act::GoAway),
        (1, Act::GoAwayAtOnce),
        (1, Act::Fail(UNAVAILABLE, 30)),
        (1, Act::PushBack(20)),
        (1, Act::HalfAnswer),
        (1, Act::Hangup),
        (4, Act::Answer(50)),
    ],
};
const FAILS_ALL: Mood = Mood {
    says: Says::Serving,
    does: &[(1, Act::Fail(UNAVAILABLE, 5))],
};
const REFUSES_ALL: Mood = Mood {
    says: Says::Serving,
    does: &[(1, Act::Refuse)],
};

/// What goes wrong here and there.
pub(crate) const BAD: [Mood; 11] = [
    STALLS,
    REFUSES,
    GOES_AWAY,
    FAILS,
    PUSHES_BACK,
    HALF_ANSWERS,
    HANGS_UP,
    SAYS_IT_IS_OUT,
    SAYS_THIS_AND_THAT,
    SAYS_NOTHING,
    DOES_ANYTHING,
];

/// As an instance may be that has not quite started.
pub(crate) const NOT_READY: [Mood; 2] = [SAYS_IT_IS_OUT, SAYS_NOTHING];

/// What makes everybody try again.
pub(crate) const STORMY: [Mood; 4] = [FAILS_ALL, FAILS_ALL, REFUSES_ALL, HANGS_UP];
