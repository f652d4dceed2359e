//! The front doors. A request is asked three things here: who, until when, what. From then on it is a value
//! of the domain; the failure that comes back is translated once, in `failure_table`.

use std::sync::Arc;

use hyper::body::Incoming;
use tower::ServiceBuilder;

pub mod access;
pub mod admin;
pub mod arrival;
pub mod body;
pub mod caller;
pub mod cors;
mod doors;
pub mod exchange;
mod failure_body;
pub mod failure_table;
mod grpc;
pub mod identity;
mod layer;
pub mod listener;
mod meter;
pub mod methods;
mod outgoing;
mod rest;
pub mod revoked;
pub mod settings;
pub mod visitor;
mod web;

use caller::FindToken;
pub use doors::BadContract;
pub use layer::Door;
#[cfg(test)]
pub(crate) use meter::{codes as metered_codes, labels as metered_paths};
use methods::House;
pub use web::Arriving;

/// The way of a request through the door, outermost first. What has come as gRPC-Web is gRPC here already
/// (`listener::streams` undresses and dresses it), so that nothing below knows another gRPC.
pub fn front_door(
    sessions: FindToken,
    house: &House,
) -> Result<impl Door<Arriving<Incoming>> + use<>, BadContract> {
    let (doors, chance) = (doors::Doors::new(house)?, house.chance.clone());
    let crossing = house.settings.clone();
    let (guarding, hurrying) = (house.settings.clone(), house.settings.clone());
    Ok(ServiceBuilder::new()
        // Outermost: a page may read every answer or none, refusals and their ids included, and a browser that asks
        // whether it may send has no key yet.
        .layer_fn(move |inner| layer::Cross {
            inner,
            settings: crossing.clone(),
        })
        // Around everything that is done for a call, so that time counts from here and even a refused call can be found by its id.
        .layer_fn(move |inner| layer::Stamp {
            inner,
            chance: chance.clone(),
        })
        // Before anything of the body is read: whoever may not call costs next to nothing.
        .layer_fn(move |inner| layer::Guard {
            inner,
            settings: guarding.clone(),
            sessions: Arc::clone(&sessions),
        })
        // Who may call is known; until when comes next. It stands where bodies are read, since one that
        // trickles in may not hold a call past its deadline.
        .layer_fn(move |inner| layer::Hurry {
            inner,
            settings: hurrying.clone(),
        })
        .service(doors))
}
