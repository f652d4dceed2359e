//! What the orchestrator offers as a skill of a cluster.

use serde::Serialize;

use super::endpoints::ENDPOINTS;

/// The one skill that is served here.
pub(super) const SKILL_ID: &str = "orchestrator";

/// The words by which whoever embeds the skill finds it.
const HINT: &str =
    "orchestrate delegate multi-instance session spawn send fanout aggregate instances";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Skill {
    skill_id: &'static str,
    version: &'static str,
    hint: &'static str,
    endpoints: Vec<Offer>,
}

#[derive(Serialize)]
struct Offer {
    method: String,
    path: String,
    summary: &'static str,
}

pub(super) fn skill() -> Skill {
    let offers = ENDPOINTS.iter().map(|endpoint| Offer {
        method: endpoint.verb.to_string(),
        path: format!("/api{}", endpoint.path),
        summary: endpoint.summary,
    });
    Skill {
        skill_id: SKILL_ID,
        version: env!("CARGO_PKG_VERSION"),
        hint: HINT,
        endpoints: offers.collect(),
    }
}
