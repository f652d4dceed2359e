//! How an instance of the simulation tells of itself without being asked: grpc.health.v1.Health/Watch, well or ill.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::time::sleep;

use crate::history::{Said, What};
use crate::instance::{Instance, frame, head, health_message, status, trailers};
use crate::lie::Lie;
use crate::mood::Says;
use crate::plan::HEAL;

/// What an instance has to tell of itself, and how well it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// It tells of each change.
    Follows,
    /// It has no such method.
    Absent,
    /// It has nothing of grpc.health.v1, and is taken for well.
    HasNoHealth,
    /// It takes the call, and never says a word.
    Stalls,
    /// It says that it serves when it does not, and the other way round.
    Lies,
    /// It ends what it tells, one way or another.
    Breaks,
    /// It tells what is none.
    Garbles,
}

impl Watched {
    pub(crate) fn draw(dice: &mut SmallRng) -> Self {
        match dice.random_range(0..20) {
            0..=7 => Self::Follows,
            8..=11 => Self::Absent,
            12 => Self::HasNoHealth,
            13 | 14 => Self::Stalls,
            15 | 16 => Self::Lies,
            17 | 18 => Self::Breaks,
            _ => Self::Garbles,
        }
    }
}

/// How often one changes its mind that says now this, now that.
const WAVERS_EVERY: Duration = Duration::from_millis(70);

/// One stream of one instance.
pub(crate) async fn serve(instance: Rc<Instance>, mut respond: SendResponse<Bytes>) {
    let watched = instance.watched();
    if matches!(watched, Watched::Absent | Watched::HasNoHealth) {
        status(respond, 12, None);
        return;
    }
    let begins = watched != Watched::Stalls || instance.flips_a_coin();
    if !begins {
        let _ = poll_fn(|context| respond.poll_reset(context)).await;
        return;
    }
    let Ok(stream) = respond.send_response(head(), false) else {
        return;
    };
    let mut telling = Telling {
        number: instance.next_number(),
        instance,
        stream,
        told: None,
    };
    telling.instance.note(What::WatchBegan {
        instance: telling.instance.id().to_owned(),
        watch: telling.number,
        watched,
    });
    telling.until_over().await;
    telling.instance.note(What::WatchOver {
        instance: telling.instance.id().to_owned(),
        watch: telling.number,
    });
}

struct Telling {
    number: u32,
    instance: Rc<Instance>,
    stream: SendStream<Bytes>,
    told: Option<Said>,
}

impl Telling {
    async fn until_over(&mut self) {
        loop {
            let now = turmoil::sim_elapsed().unwrap_or_default();
            // Everything ill ends with the faults.
            let watched = if HEAL <= now && self.instance.watched() != Watched::Stalls {
                Watched::Follows
            } else {
                self.instance.watched()
            };
            match watched {
                Watched::Stalls => {}
                Watched::Garbles => {
                    let _ = self
                        .stream
                        .send_data(Bytes::from_static(b"\x07none"), false);
                }
                Watched::Breaks if self.told.is_some() && self.instance.flips_a_coin() => {
                    if self.instance.flips_a_coin() {
                        let _ = self.stream.send_trailers(trailers(0));
                    } else {
                        self.stream.send_reset(Reason::INTERNAL_ERROR);
                    }
                    return;
                }
                Watched::Follows
                | Watched::Lies
                | Watched::Breaks
                | Watched::Absent
                | Watched::HasNoHealth => self.tell(watched),
            }
            let pause = self.instance.next_change(now).min(WAVERS_EVERY);
            tokio::select! {
                biased;
                _ = poll_fn(|context| self.stream.poll_reset(context)) => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Tells how the instance is, when that is news.
    fn tell(&mut self, watched: Watched) {
        let is_serving = match self.instance.says() {
            Says::Serving => true,
            Says::NotServing => false,
            Says::Either => self.instance.flips_a_coin(),
            Says::Nothing => return,
        };
        let said = if is_serving == (watched != Watched::Lies) {
            Said::Serving
        } else {
            Said::NotServing
        };
        if self.told == Some(said) {
            return;
        }
        let noted = if self.instance.lies(Lie::TellsOtherwise) {
            Said::NotServing
        } else {
            said
        };
        // Before it leaves, as everything that somebody may act upon.
        self.instance.note(What::Told {
            instance: self.instance.id().to_owned(),
            watch: self.number,
            said: noted,
        });
        self.told = Some(said);
        let message = health_message(said);
        let _ = self.stream.send_data(frame(&message), false);
    }
}
