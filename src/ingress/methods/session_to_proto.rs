//! What sessions say → messages as they go out.

use prost_types::Duration as ProtoDuration;

use super::to_proto::timestamp;
use crate::domain::session::to_client::Reply;
use crate::domain::session::{CloseReason, Durability, End, LossPolicy};
use crate::orchestrate::hold_session::Shown;
use crate::orchestrate::hold_session::frame::{Direction, ServerFrame};
use crate::proto::orchestrator as proto;
use crate::proto::orchestrator::session_send_response::Frame;
use crate::proto::orchestrator::session_server_data::Reply as ProtoReply;
use crate::store::record::State;

pub(super) fn frame(frame: ServerFrame) -> proto::SessionSendResponse {
    let frame = match frame {
        ServerFrame::Ready(ready) => Frame::Ready(proto::SessionReady {
            session_id: ready.session.to_string(),
            epoch: ready.epoch.number(),
            instance: ready.instance.to_string(),
            last_received_seq: ready.last_received_seq,
            first_seq: ready.first_seq,
            expire_time: ready.expires.map(timestamp),
        }),
        ServerFrame::Data {
            seq,
            reply,
            redelivered,
            payload,
        } => Frame::Data(proto::SessionServerData {
            seq,
            payload: Some(payload.into_encoded()),
            reply: reply.map(|reply| match reply {
                Reply::Streamed(seq) => ProtoReply::InReplyTo(seq),
                Reply::Posted(position) => ProtoReply::InReplyToPost(position),
            }),
            redelivered,
        }),
        ServerFrame::Ack { seq } => Frame::Ack(proto::SessionAck { seq }),
        ServerFrame::Moved {
            previous,
            instance,
            epoch,
        } => Frame::Moved(proto::SessionMoved {
            previous_instance: previous.to_string(),
            instance: instance.to_string(),
            epoch: epoch.number(),
        }),
        ServerFrame::Lost {
            direction,
            first,
            last,
        } => Frame::Lost(lost(direction, first, last)),
        ServerFrame::GoAway { delay } => Frame::GoAway(proto::SessionGoAway {
            delay: ProtoDuration::try_from(delay).ok(),
        }),
        ServerFrame::Closed { reason } => Frame::Closed(proto::SessionClosed {
            reason: close_reason(reason).into(),
        }),
    };
    proto::SessionSendResponse { frame: Some(frame) }
}

fn lost(direction: Direction, first: u64, last: u64) -> proto::SessionLost {
    let (to_instance, to_client) = (proto::Direction::ToInstance, proto::Direction::ToClient);
    let by_seq = |direction: proto::Direction| proto::SessionLost {
        direction: direction.into(),
        first_seq: first,
        last_seq: last,
        ..proto::SessionLost::default()
    };
    match direction {
        Direction::ToInstance => by_seq(to_instance),
        Direction::ToClient => by_seq(to_client),
        Direction::PostedToInstance => proto::SessionLost {
            direction: to_instance.into(),
            first_position: first,
            last_position: last,
            ..proto::SessionLost::default()
        },
    }
}

fn close_reason(reason: CloseReason) -> proto::CloseReason {
    match reason {
        CloseReason::ByClient => proto::CloseReason::ByClient,
        CloseReason::ByInstance => proto::CloseReason::ByInstance,
        CloseReason::InstanceLost => proto::CloseReason::InstanceLost,
        CloseReason::Expired => proto::CloseReason::Expired,
        CloseReason::Restarted => proto::CloseReason::Restarted,
    }
}

pub(super) fn session(shown: Shown) -> proto::Session {
    let (session, terms) = (&shown.session, &shown.session.terms);
    let (state, reason) = match &session.state {
        State::Open => (proto::SessionState::Open, proto::CloseReason::Unspecified),
        State::Closed { reason, .. } => {
            let reason = End::from_words(reason).map(|end| close_reason(end.reason));
            let unknown = proto::CloseReason::Unspecified;
            (proto::SessionState::Closed, reason.unwrap_or(unknown))
        }
    };
    let loss_policy = match terms.loss_policy {
        LossPolicy::Fail => proto::LossPolicy::Fail,
        LossPolicy::Reassign => proto::LossPolicy::Reassign,
        LossPolicy::Replay => proto::LossPolicy::Replay,
    };
    let durability = match terms.durability {
        Durability::Durable => proto::Durability::Durable,
        Durability::None => proto::Durability::None,
    };
    let created = std::time::UNIX_EPOCH + std::time::Duration::from_millis(terms.created_ms);
    proto::Session {
        id: terms.id.to_string(),
        instance: session.instance.to_string(),
        epoch: session.epoch.number(),
        state: state.into(),
        close_reason: reason.into(),
        loss_policy: loss_policy.into(),
        durability: durability.into(),
        labels: terms.labels.clone().into_iter().collect(),
        create_time: Some(timestamp(created)),
        expire_time: shown.expires.map(timestamp),
        attached: shown.attached,
        unacknowledged_by_instance: session.to_instance.last - session.to_instance.acked,
        unacknowledged_by_client: session.to_client.last - session.to_client.settled,
        detail: shown.detail,
    }
}
