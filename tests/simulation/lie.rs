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
    /// The operator is told that an instance is draining which is not.
    DrainsNobody,
    /// The operator never hears that an instance is drained.
    NeverSaysDrained,
    /// The operator hears it at once.
    SaysDrainedAtOnce,
    /// An instance tells that it serves, and the history that it does not.
    TellsOtherwise,
    /// Callers want second instances asked much earlier than they say.
    HedgesEarly,
    /// Callers do not own up to their tasks being repeatable.
    HedgesOnTheSly,
    /// Callers repeat their requests with other keys than they say.
    AsksAnew,
    /// Callers say that all their keys are one.
    ChangesItsWord,
    /// Callers do not tell that an earlier call has brought their answer.
    HidesEarlierCalls,
    /// Callers want to wait for an instance, and do not say so to the orchestrator.
    SaysThatItWaits,
    /// Callers do not hear when to come again.
    HidesPushback,
    /// More is allowed than is said.
    AllowsMore,
    /// More retries at one instance are allowed than is said.
    AllowsMoreRetries,
    /// Instances say that they have asked for a longer pause than they did.
    AsksForMorePatience,
    /// Callers say that all their tries went to one instance.
    NamesOneInstance,
    /// Fewer failures eject an instance than is said.
    EjectsEarly,
    /// An ejection is over sooner than is said.
    ForgivesEarly,
}

impl Lie {
    /// All, each with words of the complaint that it must raise.
    pub(crate) const ALL: [(Self, &'static str); 29] = [
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
        (Self::DrainsNobody, "which is set aside"),
        (Self::NeverSaysDrained, "is said to have work"),
        (Self::SaysDrainedAtOnce, "is said to be drained"),
        (Self::TellsOtherwise, "which is down"),
        (Self::HedgesEarly, "hedged too early"),
        (Self::HedgesOnTheSly, "contradicts itself"),
        (Self::AsksAnew, "once more"),
        (Self::ChangesItsWord, "two tasks"),
        (Self::HidesEarlierCalls, "is said to be its own"),
        (Self::SaysThatItWaits, "did not wait"),
        (Self::HidesPushback, "without a word of when"),
        (Self::AllowsMore, "at once"),
        (Self::AllowsMoreRetries, "beyond the budget of"),
        (Self::AsksForMorePatience, "had asked at"),
        (Self::NamesOneInstance, "is untried"),
        (Self::EjectsEarly, "failures in a row"),
        (Self::ForgivesEarly, "which is ejected"),
    ];
}
