//! What an instance, or a proxy in front of it, asks of whoever would try again. There are three forms.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use prost::Message as _;

use crate::domain::retry::Pushback;
use crate::instance::retry_after;

/// gRPC over HTTP/2, "Custom-Metadata": binary values come with or without padding.
const BINARY: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `google.rpc.RetryInfo`, by its name in a detail.
const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// `google.rpc.Status`, of which only the details are read.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// What is asked for; where it is said in more than one form, by the one that was made for it.
pub(super) fn of(headers: &HeaderMap) -> Option<Pushback> {
    let in_grpc = headers.get("grpc-retry-pushback-ms");
    let in_grpc = in_grpc.map(|value| Pushback::from_grpc(value.as_bytes()));
    let in_details = || retry_info(headers.get("grpc-status-details-bin")?.as_bytes());
    let in_http = || retry_after::of(headers);
    in_grpc.or_else(in_details).or_else(in_http)
}

/// Details that cannot be read ask for nothing.
fn retry_info(encoded: &[u8]) -> Option<Pushback> {
    let status = Status::decode(&BINARY.decode(encoded).ok()?[..]).ok()?;
    let is_retry_info = |any: &&prost_types::Any| {
        let name = any.type_url.rsplit('/').next();
        name == Some(RETRY_INFO)
    };
    let detail = status.details.iter().find(is_retry_info)?;
    let delay = RetryInfo::decode(&detail.value[..]).ok()?.retry_delay?;
    std::time::Duration::try_from(delay)
        .ok()
        .map(Pushback::wait)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn details(delay: prost_types::Duration) -> String {
        let info = RetryInfo {
            retry_delay: Some(delay),
        };
        let any = |name: &str, value| prost_types::Any {
            type_url: format!("type.googleapis.com/{name}"),
            value,
        };
        let status = Status {
            details: vec![
                any("google.rpc.ErrorInfo", Vec::new()),
                any(RETRY_INFO, info.encode_to_vec()),
            ],
        };
        BINARY.encode(status.encode_to_vec())
    }

    fn check(headers: &[(&'static str, &str)], expected: Option<Pushback>) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        assert_eq!(of(&headers), expected, "{headers:?}");
    }

    #[test]
    fn every_form_is_read_and_the_one_made_for_it_wins() {
        let wait = |millis| Some(Pushback::Wait(Duration::from_millis(millis)));
        let (grpc, bin) = ("grpc-retry-pushback-ms", "grpc-status-details-bin");
        let delay = |seconds, nanos| details(prost_types::Duration { seconds, nanos });
        check(&[], None);
        check(&[(grpc, "250")], wait(250));
        check(&[(grpc, "-1"), (bin, &delay(2, 0))], Some(Pushback::Stop));
        check(&[(bin, &delay(2, 500_000_000))], wait(2500));
        check(&[(bin, delay(2, 0).trim_end_matches('='))], wait(2000));
        check(&[(bin, &delay(2, 0)), ("retry-after", "7")], wait(2000));
        check(&[("retry-after", "7")], wait(7000));
        // What cannot be read asks for nothing.
        check(&[(bin, &delay(-2, 0))], None);
        check(&[(bin, "!")], None);
        check(&[(bin, "AAAA"), ("retry-after", "1")], wait(1000));
        check(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], None);
    }
}
