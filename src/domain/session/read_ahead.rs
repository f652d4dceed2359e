//! What one side has sent beyond what the line takes. It is read all the same, up to a bound, so that what comes
//! behind it is heard: acknowledgements above all, by which the line gets room again.

use std::collections::VecDeque;

use super::Bounds;

/// Messages that wait for room in a line, in order.
#[derive(Debug, Clone)]
pub struct ReadAhead<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    bounds: Bounds,
}

impl<T> ReadAhead<T> {
    /// Nothing waits. Whoever keeps within `bounds` never fills it.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            bounds,
        }
    }

    /// One more message of so many bytes. Ask `is_full` before.
    pub fn push(&mut self, message: T, bytes: usize) {
        self.bytes += bytes;
        self.waiting.push_back((message, bytes));
    }

    /// Whether no more is read: the sender has more on its way than its bounds allow. The message by which they
    /// were exceeded is kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bounds.messages < self.waiting.len()
            || (1 < self.waiting.len() && self.bounds.bytes < self.bytes)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of what waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The message that has waited longest.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.waiting.front().map(|(message, _)| message)
    }

    /// Takes the message that has waited longest.
    pub fn pop(&mut self) -> Option<T> {
        let (message, bytes) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        if self.waiting.is_empty() {
            // Most sessions have nothing that waits most of the time.
            self.waiting = VecDeque::new();
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn who_keeps_within_the_bounds_is_always_read_and_nobody_is_read_for_ever(
            steps in prop::collection::vec((0_usize..60, any::<bool>()), 1..200),
        ) {
            let bounds = Bounds { messages: 5, bytes: 100 };
            let mut ahead = ReadAhead::new(bounds);
            let mut sent = VecDeque::new();
            for (number, (bytes, takes)) in steps.into_iter().enumerate() {
                let within = sent.len() <= bounds.messages
                    && (sent.len() <= 1 || sent.iter().map(|(_, bytes)| bytes).sum::<usize>() <= bounds.bytes);
                prop_assert_eq!(ahead.is_full(), !within);
                if takes || ahead.is_full() {
                    prop_assert_eq!(ahead.pop(), sent.pop_front().map(|(number, _)| number));
                } else {
                    ahead.push(number, bytes);
                    sent.push_back((number, bytes));
                }
                prop_assert_eq!(ahead.bytes(), sent.iter().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert_eq!(ahead.front(), sent.front().map(|(number, _)| number));
                prop_assert_eq!(ahead.is_empty(), sent.is_empty());
                prop_assert!(ahead.bytes() < bounds.bytes + 60 && sent.len() <= bounds.messages + 1);
            }
        }
    }
}
