//! The wire format of messages, field by field.

pub(super) const MALFORMED: &str = "it is not a google.protobuf.Value";
const CUT_OFF: &str = "it is cut off";

/// The value of a field.
#[derive(Clone, Copy)]
pub(crate) enum Wire<'a> {
    Bytes(&'a [u8]),
    Varint(u64),
    Double(f64),
    Float,
}

/// The fields of a message, by number; ends after the first that cannot be read.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u64, Wire<'a>), &'static str> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let (double, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
                self.0 = rest;
                Wire::Double(f64::from_le_bytes(*double))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT_OFF)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(CUT_OFF)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            5 => {
                self.0 = self.0.get(4..).ok_or(CUT_OFF)?;
                Wire::Float
            }
            _ => return Err(MALFORMED),
        };
        Ok((key >> 3, field))
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        prost::encoding::decode_varint(&mut self.0).map_err(|_| CUT_OFF)
    }
}
