//! What the log has no more, and an instance that began anew was never given; and how long the client is told of it.
//!
//! There is no acknowledgement of such news. A client that has acknowledged a message which came after the news has
//! read the news, since a stream keeps its order: until then it is told each time that it attaches.

/// Through where the log of a session is gone for an instance that begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Through {
    /// The last message of the client's stream that is gone, by the client's own number; 0 for none.
    pub seq: u64,
    /// The position of the last message that is gone and was posted; 0 for none.
    pub post: u64,
}

/// Messages of a client that are gone, and that the instance which goes on was not given: those of its stream by its
/// own numbers, or those that were posted by their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gone {
    /// The first of them that the client may not know of.
    pub first: u64,
    /// The last of them; 0 when nothing is gone.
    pub last: u64,
    /// The last message for the client when that was noted.
    pub since: u64,
}

impl Gone {
    /// Messages through `last` are gone by now, while the client has acknowledged everything up to `acked`, of all
    /// that there is for it up to `newest`. What the client may not know of yet is told together with it.
    pub fn note(&mut self, last: u64, acked: u64, newest: u64) {
        if last <= self.last {
            return;
        }
        let first = self.untold(acked).map_or(self.last + 1, |(first, _)| first);
        *self = Self {
            first,
            last,
            since: newest,
        };
    }

    /// The first and the last of them, as long as a client that has acknowledged everything up to `acked` may not
    /// know of them.
    #[must_use]
    pub fn untold(&self, acked: u64) -> Option<(u64, u64)> {
        (self.last != 0 && acked <= self.since).then_some((self.first, self.last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_told_until_something_later_is_acknowledged() {
        let mut gone = Gone::default();
        assert_eq!(gone.untold(0), None);
        gone.note(3, 2, 5);
        assert_eq!(gone.untold(2), Some((1, 3)));
        assert_eq!(gone.untold(5), Some((1, 3)), "it came after this one");
        assert_eq!(gone.untold(6), None);
        gone.note(3, 6, 9);
        assert_eq!(gone.untold(6), None, "no news");
        gone.note(5, 6, 9);
        assert_eq!(gone.untold(6), Some((4, 5)));
        gone.note(7, 9, 12);
        assert_eq!(gone.untold(9), Some((4, 7)), "both at once");
    }

    proptest! {
        /// A client hears what it is told, or is cut off before, and acknowledges.
        #[test]
        fn whoever_acknowledges_in_order_learns_of_all_of_it_and_of_nothing_else(
            steps in prop::collection::vec((0_u8..4, 1_u64..4), 1..60),
        ) {
            let (mut gone, mut newest, mut acked, mut has) = (Gone::default(), 0, 0, 0);
            let (mut last, mut knows) = (0, 0);
            for (what, by) in steps {
                match what {
                    0 => {
                        last += by;
                        gone.note(last, acked, newest);
                    }
                    1 => newest += by,
                    // It attaches, is told first, and reads some of what there is.
                    2 => {
                        if let Some((first, through)) = gone.untold(acked) {
                            prop_assert!(first <= knows + 1 && through == last);
                            knows = through;
                        }
                        has = newest.min(has + by);
                    }
                    _ => acked = has,
                }
                if gone.untold(acked).is_none() {
                    prop_assert_eq!(knows, last);
                }
            }
        }
    }
}
