//! The messages of one package, as its descriptors tell them.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
};

/// Every message and enum of a package.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(super) messages: Vec<Message>,
    pub(super) enums: Vec<Enum>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Without its package.
    pub name: String,
    /// What the contract says of it.
    pub comment: String,
    /// In the order of the contract.
    pub fields: Vec<Field>,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// As in the contract: `per_try_timeout`.
    pub name: String,
    /// In JSON: `perTryTimeout`.
    pub json_name: String,
    /// What the contract says of it.
    pub comment: String,
    /// What it holds.
    pub kind: Kind,
    /// Any number of them.
    pub is_list: bool,
    /// Whether absent differs from empty or zero.
    pub has_presence: bool,
    pub(super) number: u32,
    /// Fields with the same number exclude each other.
    pub(super) oneof: Option<i32>,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `string`.
    Text,
    /// `bool`.
    Bool,
    /// `int32`.
    Int32,
    /// `uint32`.
    Uint32,
    /// `uint64`.
    Uint64,
    /// `double`.
    Double,
    /// An enum of the package, by its position.
    Enum(usize),
    /// A message of the package, by its position.
    Message(usize),
    /// `google.protobuf.Duration`.
    Duration,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// `google.protobuf.Value`.
    Payload,
    /// `map<string, string>`.
    Words,
}

/// One enum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enum {
    /// Without its package.
    pub name: String,
    /// What the contract says of it.
    pub comment: String,
    pub(super) values: Vec<EnumValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EnumValue {
    /// `SELECTION_BALANCED`.
    pub(super) name: String,
    /// `balanced`.
    pub(super) word: String,
    pub(super) number: i32,
}

impl Enum {
    /// The short words of its values, without that of "unspecified".
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let specified = self.values.iter().filter(|value| value.number != 0);
        specified.map(|value| value.word.as_str())
    }

    /// The short words of all its values: what an answer may have.
    pub fn all_words(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|value| value.word.as_str())
    }

    /// The number of a value by its name, short or whole, in any case.
    #[must_use]
    pub fn number(&self, written: &str) -> Option<i32> {
        let value = self.values.iter().find(|value| {
            value.word.eq_ignore_ascii_case(written) || value.name.eq_ignore_ascii_case(written)
        });
        value.map(|value| value.number)
    }
}

/// Why descriptors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadSchema {
    /// Not an encoded `FileDescriptorSet`.
    #[error("the descriptors cannot be read: {0}")]
    Unreadable(#[from] prost::DecodeError),
    /// A type that has no form in JSON here.
    #[error("{0} has a type that is not supported")]
    Unsupported(String),
}

/// Where the things of the package stand, by their full names.
type Index = HashMap<String, Kind>;

impl Schema {
    /// Reads the messages of a package from an encoded `FileDescriptorSet`.
    pub fn new(descriptors: &[u8], package: &str) -> Result<Self, BadSchema> {
        let set = FileDescriptorSet::decode(descriptors)?;
        let files: Vec<_> = set
            .file
            .iter()
            .filter(|file| file.package() == package)
            .collect();
        let mut index = Index::new();
        let (mut messages, mut enums) = (0, 0);
        for file in &files {
            for message in &file.message_type {
                let name = format!(".{package}.{}", message.name());
                index.insert(name, Kind::Message(messages));
                messages += 1;
            }
            for values in &file.enum_type {
                index.insert(format!(".{package}.{}", values.name()), Kind::Enum(enums));
                enums += 1;
            }
        }
        let mut schema = Self {
            messages: Vec::with_capacity(messages),
            enums: Vec::with_capacity(enums),
        };
        for file in files {
            let comments = Comments::of(file);
            for (at, read) in file.message_type.iter().enumerate() {
                schema.messages.push(message(read, at, &index, &comments)?);
            }
            for (at, read) in file.enum_type.iter().enumerate() {
                schema.enums.push(enumeration(read, at, &comments));
            }
        }
        Ok(schema)
    }

    /// A message by its name without the package.
    #[must_use]
    pub fn message(&self, name: &str) -> Option<&Message> {
        self.messages.iter().find(|message| message.name == name)
    }

    /// A message by its position.
    #[must_use]
    pub fn message_at(&self, at: usize) -> Option<&Message> {
        self.messages.get(at)
    }

    /// An enum by its name without the package.
    #[must_use]
    pub fn enum_named(&self, name: &str) -> Option<&Enum> {
        self.enums.iter().find(|found| found.name == name)
    }

    /// An enum by its position.
    #[must_use]
    pub fn enum_at(&self, at: usize) -> Option<&Enum> {
        self.enums.get(at)
    }
}

/// What stands above the things of a file, by their paths in its descriptor.
struct Comments(HashMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments = locations.filter_map(|location| {
            let lines = location.leading_comments.as_deref()?.trim().lines();
            let lines: Vec<_> = lines.map(str::trim).collect();
            Some((location.path.clone(), lines.join("\n")))
        });
        Self(comments.collect())
    }

    fn at(&self, path: &[i32]) -> String {
        self.0.get(path).cloned().unwrap_or_default()
    }
}

/// Field numbers of `FileDescriptorProto` and `DescriptorProto`, of which paths are made.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const FIELDS: i32 = 2;

fn message(
    read: &DescriptorProto,
    at: usize,
    index: &Index,
    comments: &Comments,
) -> Result<Message, BadSchema> {
    let path = [MESSAGES, at as i32];
    let fields = read.field.iter().enumerate();
    let fields = fields.map(|(at, found)| {
        let comment = comments.at(&[&path[..], &[FIELDS, at as i32]].concat());
        field(found, read, index, comment)
    });
    Ok(Message {
        name: read.name().to_owned(),
        comment: comments.at(&path),
        fields: fields.collect::<Result<_, _>>()?,
    })
}

fn field(
    read: &FieldDescriptorProto,
    message: &DescriptorProto,
    index: &Index,
    comment: String,
) -> Result<Field, BadSchema> {
    let unsupported = || BadSchema::Unsupported(format!("{}.{}", message.name(), read.name()));
    let is_words = is_map_of_words(read, message);
    let kind = match (read.r#type(), read.type_name()) {
        _ if is_words => Kind::Words,
        (Type::String, _) => Kind::Text,
        (Type::Bool, _) => Kind::Bool,
        (Type::Int32, _) => Kind::Int32,
        (Type::Uint32, _) => Kind::Uint32,
        (Type::Uint64, _) => Kind::Uint64,
        (Type::Double, _) => Kind::Double,
        (Type::Message, ".google.protobuf.Duration") => Kind::Duration,
        (Type::Message, ".google.protobuf.Timestamp") => Kind::Timestamp,
        (Type::Message, ".google.protobuf.Value") => Kind::Payload,
        (_, name) => *index.get(name).ok_or_else(unsupported)?,
    };
    let is_list = read.label() == Label::Repeated && !is_words;
    let is_message = matches!(
        kind,
        Kind::Message(_) | Kind::Duration | Kind::Timestamp | Kind::Payload
    );
    Ok(Field {
        name: read.name().to_owned(),
        json_name: camel_case(read.name()),
        comment,
        kind,
        is_list,
        has_presence: !is_list && (is_message || read.oneof_index.is_some()),
        number: u32::try_from(read.number()).map_err(|_| unsupported())?,
        // An optional field has a oneof of its own, which excludes nothing.
        oneof: read.oneof_index.filter(|_| !read.proto3_optional()),
    })
}

fn is_map_of_words(field: &FieldDescriptorProto, message: &DescriptorProto) -> bool {
    let entry = message.nested_type.iter().find(|nested| {
        let is_entry = nested.options.as_ref().is_some_and(|it| it.map_entry());
        is_entry && field.type_name().ends_with(&format!(".{}", nested.name()))
    });
    entry.is_some_and(|entry| entry.field.iter().all(|part| part.r#type() == Type::String))
}

/// `per_try_timeout` → `perTryTimeout` (the JSON mapping of proto3).
fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut whole, part| {
        let mut rest = part.chars();
        whole.extend(rest.next().map(|c| c.to_ascii_uppercase()));
        whole.push_str(rest.as_str());
        whole
    })
}

fn enumeration(read: &EnumDescriptorProto, at: usize, comments: &Comments) -> Enum {
    let zero = read.value.iter().find(|value| value.number() == 0);
    let prefix = zero.and_then(|zero| zero.name().strip_suffix("UNSPECIFIED"));
    let values = read.value.iter().map(|value| {
        let short = value.name();
        let short = short.strip_prefix(prefix.unwrap_or_default());
        EnumValue {
            name: value.name().to_owned(),
            word: short.unwrap_or(value.name()).to_ascii_lowercase(),
            number: value.number(),
        }
    });
    Enum {
        name: read.name().to_owned(),
        comment: comments.at(&[ENUMS, at as i32]),
        values: values.collect(),
    }
}
