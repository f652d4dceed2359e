//! What a message is as JSON, and what JSON is no message.
