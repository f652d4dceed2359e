//! Untrue histories and broken worlds: each makes one promise look broken, so that its check can be seen to work.

/// What is not as it seems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// An instance begins what it then refuses.
    ExecutesWhatItRefuses,
    /// An instance does not notice that it is no longer waited for.
    HidesResets,
    /// An instance says to its prober that it serves, and to the history that it does not.
    TakesWorkWhileOut,
    /// Callers want an answer much sooner than they say.
    AsksForMoreTime,
    /// Callers want fewer tries than they say.
    AsksForMoreTries,
    /// Callers do not own up to most of their calls.
    HidesCalls,
    /// A caller hears everything twice.
    HearsTwice,
    /// A caller mixes up what it hears.
    MixesUpAnswers,
    /// A caller never says how its calls ended.
    HidesEnds,
    /// A caller does not tell of tries that it was told of.
    HidesTries,
    /// A call is counted as being with an instance for ever.
    LeaksACall,
    /// Two instances do not get well again.
    StaysIll,
}

impl Lie {
    /// All, each with words of the complaint that it must raise.
    pub(crate) const ALL: [(Self, &'static str); 12] = [
        (Self::ExecutesWhatItRefuses, "executed"),
        (Self::HidesResets, "goes on at"),
        (Self::TakesWorkWhileOut, "is down"),
        (Self::AsksForMoreTime, "more time than"),
        (Self::AsksForMoreTries, "tries"),
        (Self::HidesCalls, "budget"),
        (Self::HearsTwice, "two outcomes"),
        (Self::MixesUpAnswers, "answer of another"),
        (Self::HidesEnds, "never ended"),
        (Self::HidesTries, "was not reported"),
        (Self::LeaksACall, "left behind"),
        (Self::StaysIll, "not well again"),
    ];
}
