//! Compiles the contract with protox, so that no protoc is needed on the machine.
//!
//! A `google.protobuf.Value` field becomes `Option<Bytes>` in the program: its bytes on the wire are the same
//! as those of a bytes field, so a payload is sliced out of the incoming message and never decoded.
//! Reflection serves the unchanged descriptors, comments included.

use std::path::PathBuf;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

const PROTOS: [&str; 3] = [
    "openclaw/orchestrator/v1/orchestrator.proto",
    "openclaw/instance/v1/instance.proto",
    "grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=third_party");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto", "third_party"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(PROTOS)?;
    std::fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let mut descriptors = compiler.file_descriptor_set();
    make_payloads_opaque(&mut descriptors);
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}

fn make_payloads_opaque(descriptors: &mut FileDescriptorSet) {
    for file in &mut descriptors.file {
        if file.package().starts_with("openclaw.") {
            file.message_type.iter_mut().for_each(opaque);
        }
    }
}

fn opaque(message: &mut DescriptorProto) {
    for field in &mut message.field {
        if field.r#type() == Type::Message && field.type_name() == ".google.protobuf.Value" {
            field.type_name = None;
            field.set_type(Type::Bytes);
            // Keeps "absent" apart from "empty", as a message field does.
            if field.label() != Label::Repeated && field.oneof_index.is_none() {
                field.proto3_optional = Some(true);
            }
        }
    }
    message.nested_type.iter_mut().for_each(opaque);
}
