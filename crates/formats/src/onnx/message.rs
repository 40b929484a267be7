//! Protobuf's wire format, as far as a writer needs it.
//!
//! A message is its fields, one after the other: a tag (the field's number and how the value is written), then the value. A
//! whole number is written in groups of seven bits, the lowest first; text, bytes and messages have their length before
//! them. <https://protobuf.dev/programming-guides/encoding/>

/// How a value is written: the low three bits of a tag.
const VARINT: u64 = 0;
const LENGTH_FIRST: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// A message, built field by field.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A whole number or an enum. (A negative one takes ten bytes, as the format wants it.)
    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3 | VARINT);
        self.varint(value as u64);
        self
    }

    /// A field of several whole numbers.
    pub fn ints(self, field: u64, values: impl IntoIterator<Item = i64>) -> Self {
        values.into_iter().fold(self, |message, value| message.int(field, value))
    }

    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | FOUR_BYTES);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.begin(field, bytes.len() as u64);
        message.0.extend(bytes);
        message
    }

    pub fn message(self, field: u64, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    /// A field of several messages.
    pub fn messages(self, field: u64, messages: impl IntoIterator<Item = Message>) -> Self {
        messages.into_iter().fold(self, |all, message| all.message(field, &message))
    }

    /// The beginning of a field of `length` bytes, which are written after this message, and are its last field.
    pub fn begin(mut self, field: u64, length: u64) -> Self {
        self.varint(field << 3 | LENGTH_FIRST);
        self.varint(length);
        self
    }

    /// The fields of `other`, after these.
    pub fn then(mut self, other: &Message) -> Self {
        self.0.extend(&other.0);
        self
    }

    /// What is to be written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of protobuf's description of the format.
    #[test]
    fn fields_are_written_as_protobuf_describes_them() {
        assert_eq!(Message::default().int(1, 150).as_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").as_bytes(), b"\x12\x07testing");
        let inner = Message::default().int(1, 150);
        assert_eq!(Message::default().message(3, &inner).as_bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        let minus_two = Message::default().int(1, -2);
        assert_eq!(minus_two.as_bytes(), [8, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(Message::default().float(1, 1.0).as_bytes(), [0x0d, 0, 0, 0x80, 0x3f]);
        assert_eq!(Message::default().ints(20, [1, 300]).as_bytes(), [0xa0, 1, 1, 0xa0, 1, 0xac, 2]);
    }
}
