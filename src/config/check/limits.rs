//! The limits of the front door.

use std::time::Duration;

use super::place::{Fields, Place};
use super::{LONGEST, SHORTEST};
use crate::domain::limit::{
    CONNECTION_STREAMS_MAX, CONNECTIONS_MAX, NETWORKS_MAX, WINDOW_MAX, WINDOW_MIN,
};
use crate::ingress::listener::Limits;

pub(super) fn limits(place: &Place<'_>) -> Option<Limits> {
    let fields = place.fields(&[
        "connections",
        "connections_per_address",
        "trusted_networks",
        "streams_per_connection",
        "stream_window_bytes",
        "connection_window_bytes",
        "tls_handshake_timeout",
        "first_bytes_timeout",
        "http1_headers_timeout",
        "body_timeout",
        "stream_idle",
        "keepalive_interval",
        "keepalive_timeout",
        "connection_age",
        "connection_age_grace",
    ])?;
    let mut limits = Limits::default();
    let connections = 1..=CONNECTIONS_MAX;
    fields.set("connections", &mut limits.connections, |place| {
        place.count(connections.clone())
    });
    fields.set(
        "connections_per_address",
        &mut limits.connections_per_address,
        |place| place.count(connections),
    );
    fields.set("trusted_networks", &mut limits.trusted, |place| {
        place.networks(NETWORKS_MAX)
    });
    fields.set("streams_per_connection", &mut limits.streams, |place| {
        place.count(1..=CONNECTION_STREAMS_MAX)
    });

    let window = |place: &Place<'_>| place.count(WINDOW_MIN..=WINDOW_MAX);
    fields.set("stream_window_bytes", &mut limits.stream_window, window);
    fields.set(
        "connection_window_bytes",
        &mut limits.connection_window,
        window,
    );
    if limits.connection_window < limits.stream_window {
        let place = fields
            .get("stream_window_bytes")
            .unwrap_or_else(|| fields.get_or_self("connection_window_bytes"));
        place.note(format!(
            "one stream's window ({} bytes) is larger than its connection's ({} bytes): raise connection_window_bytes or lower stream_window_bytes",
            limits.stream_window, limits.connection_window
        ));
    }

    times(&fields, &mut limits);
    Some(limits)
}

fn times(fields: &Fields<'_>, limits: &mut Limits) {
    for (name, setting, min) in [
        ("tls_handshake_timeout", &mut limits.tls_handshake, SHORTEST),
        ("first_bytes_timeout", &mut limits.first_bytes, SHORTEST),
        ("http1_headers_timeout", &mut limits.http1_headers, SHORTEST),
        ("body_timeout", &mut limits.body, SHORTEST),
        ("stream_idle", &mut limits.stream_idle, SHORTEST),
        (
            "keepalive_interval",
            &mut limits.keepalive_interval,
            SHORTEST,
        ),
        ("keepalive_timeout", &mut limits.keepalive_timeout, SHORTEST),
        ("connection_age", &mut limits.age, SHORTEST),
        (
            "connection_age_grace",
            &mut limits.age_grace,
            Duration::ZERO,
        ),
    ] {
        fields.set(name, setting, |place| place.duration(&(min..=LONGEST)));
    }
}
