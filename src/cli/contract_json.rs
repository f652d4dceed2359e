//! Messages of the contract as JSON in the form that REST gives them: one writer for both.

use prost::Message;
use serde::{Serialize, Serializer};

use super::exit::Error;
use crate::message_json::{self, Schema, Written};
use crate::proto;

/// What describes the messages.
pub(super) struct Contract(Schema);

/// One message that serializes.
pub(super) struct Document<'c> {
    schema: &'c Schema,
    message: &'c message_json::Message,
    encoded: Vec<u8>,
}

impl Contract {
    pub(super) fn read() -> Result<Self, Error> {
        let schema = Schema::new(proto::DESCRIPTORS, "openclaw.orchestrator.v1");
        schema
            .map(Self)
            .map_err(|bad| Error::Answer(bad.to_string()))
    }

    /// `name` is that of its type.
    pub(super) fn document(
        &self,
        name: &str,
        message: &impl Message,
    ) -> Result<Document<'_>, Error> {
        let described = self.0.message(name);
        let described = described.ok_or_else(|| Error::Answer(format!("{name} is unknown")))?;
        Ok(Document {
            schema: &self.0,
            message: described,
            encoded: message.encode_to_vec(),
        })
    }
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = Written {
            schema: self.schema,
            message: self.message,
            encoded: &self.encoded,
        };
        written.serialize(serializer)
    }
}
