//! Scalars for TensorBoard: an event file in its own format, written by hand.
//!
//! ```text
//! record:  length u64 · masked CRC-32C of the length u32 · data · masked CRC-32C of the data u32    (TFRecord)
//! data:    Event { wall_time: 1 double, step: 2 int64, file_version: 3 string, summary: 5, session_log: 7 }
//! summary: Summary { value: 1 repeated { tag: 1 string, simple_value: 2 float } }                 (protobuf)
//! ```
//! Sources: `tensorflow/core/util/event.proto`, `summary.proto` and `lib/io/record_writer`. These are forty lines;
//! a protobuf library and its generated types would be more, for seven fields that have not changed in a decade.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::metrics::Row;
use crate::error::{Context, Error, Result};

/// An event file that scalars are added to.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

/// Where in a run the file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first step.
    New,
    /// After this many updates. TensorBoard forgets what earlier files of the folder say of later steps.
    Resumed(u64),
}

impl Events {
    /// Begins a new file in a run's folder, named so that TensorBoard finds it and reads it after earlier ones.
    pub fn create(folder: &Path, start: Start) -> Result<Events> {
        let seconds = now().trunc();
        for number in 0..1000 {
            let name = format!("events.out.tfevents.{seconds:010}.wootz.{}.{number}", std::process::id());
            let path = folder.join(name);
            let file = match OpenOptions::new().append(true).create_new(true).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file.context(|| format!("{}: cannot make the file", path.display()))?,
            };
            let mut events = Events { path, file };
            events.event(0, Payload::Version)?;
            match start {
                Start::New => {}
                Start::Resumed(step) => events.event(step.saturating_add(1), Payload::Restart)?,
            }
            return Ok(events);
        }
        Err(Error::new(format!("{}: a thousand event files of this second are in the way", folder.display())))
    }

    /// Adds the numbers of a line of `metrics.jsonl`, under the same names.
    pub fn append(&mut self, row: &Row) -> Result<()> {
        let scalars: Vec<(&str, f32)> = row.numbers().map(|(name, x)| (name, x as f32)).collect();
        self.scalars(row.step(), &scalars)
    }

    /// Adds scalars of one step.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f32)]) -> Result<()> {
        self.event(step, Payload::Scalars(scalars))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn event(&mut self, step: u64, payload: Payload<'_>) -> Result<()> {
        let record = frame(&encode(now(), step, payload));
        self.file.write_all(&record).context(|| format!("{}: cannot write", self.path.display()))
    }
}

/// What an event says.
enum Payload<'a> {
    /// The first of each file.
    Version,
    /// What earlier files say of this step and later ones is void.
    Restart,
    Scalars(&'a [(&'a str, f32)]),
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// An `Event` as protobuf.
fn encode(wall_time: f64, step: u64, payload: Payload<'_>) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, Wire::Fixed64);
    event.extend(wall_time.to_le_bytes());
    key(&mut event, 2, Wire::Varint);
    varint(&mut event, step);
    match payload {
        Payload::Version => bytes(&mut event, 3, b"brain.Event:2"),
        Payload::Restart => {
            let mut session_log = Vec::new();
            key(&mut session_log, 1, Wire::Varint);
            varint(&mut session_log, 1); // SessionLog.START
            bytes(&mut event, 7, &session_log);
        }
        Payload::Scalars(scalars) => {
            let mut summary = Vec::new();
            for (tag, x) in scalars {
                let mut value = Vec::new();
                bytes(&mut value, 1, tag.as_bytes());
                key(&mut value, 2, Wire::Fixed32);
                value.extend(x.to_le_bytes());
                bytes(&mut summary, 1, &value);
            }
            bytes(&mut event, 5, &summary);
        }
    }
    event
}

/// How a protobuf field's value is written.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

fn key(out: &mut Vec<u8>, field: u64, wire: Wire) {
    varint(out, field << 3 | wire as u64);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, Wire::Bytes);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A TFRecord.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// TFRecord's checksum: turned and shifted, so that a checksum of data that contains checksums is no trivial one.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32 with Castagnoli's polynomial, a bit at a time: a run has a hundred bytes a step for it.
fn crc32c(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78; // reversed
    let mut crc = !0;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::metrics::{LOSS, LR};
    use super::super::scratch::Scratch;
    use super::*;

    /// What a reader finds in an event file, its checksums verified.
    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        step: u64,
        wall_time: f64,
        version: Option<String>,
        session: Option<u64>,
        scalars: Vec<(String, f32)>,
    }

    /// The fields of a protobuf message: number, wire type, value (of fixed fields their bytes).
    fn fields(mut data: &[u8]) -> Vec<(u64, u64, u64, Vec<u8>)> {
        let mut found = Vec::new();
        let take = |data: &mut &[u8], n: usize| {
            let (taken, rest) = data.split_at(n);
            *data = rest;
            taken.to_vec()
        };
        let read_varint = |data: &mut &[u8]| {
            let mut n = 0;
            for shift in (0..).step_by(7) {
                let byte = take(data, 1)[0];
                n |= u64::from(byte & 0x7F) << shift;
                if byte < 0x80 {
                    return n;
                }
            }
            unreachable!()
        };
        while !data.is_empty() {
            let key = read_varint(&mut data);
            let (mut number, mut content) = (0, Vec::new());
            match key & 7 {
                0 => number = read_varint(&mut data),
                1 => content = take(&mut data, 8),
                2 => {
                    let length = read_varint(&mut data) as usize;
                    content = take(&mut data, length);
                }
                5 => content = take(&mut data, 4),
                wire => panic!("wire type {wire}"),
            }
            found.push((key >> 3, key & 7, number, content));
        }
        found
    }

    fn parse(mut file: &[u8]) -> Vec<Seen> {
        let unmask = |masked: u32| masked.wrapping_sub(0xA282_EAD8).rotate_left(15);
        let mut events = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            let data = &file[12..12 + length];
            assert_eq!(unmask(u32_at(8)), crc32c(&file[..8]));
            assert_eq!(unmask(u32_at(12 + length)), crc32c(data));
            let mut seen = Seen::default();
            for (field, _, number, content) in fields(data) {
                match field {
                    1 => seen.wall_time = f64::from_le_bytes(content.try_into().unwrap()),
                    2 => seen.step = number,
                    3 => seen.version = Some(String::from_utf8(content).unwrap()),
                    5 => {
                        for (_, _, _, value) in fields(&content) {
                            let value = fields(&value);
                            let tag = String::from_utf8(value[0].3.clone()).unwrap();
                            seen.scalars.push((tag, f32::from_le_bytes(value[1].3[..].try_into().unwrap())));
                        }
                    }
                    7 => seen.session = Some(fields(&content)[0].2),
                    field => panic!("field {field}"),
                }
            }
            events.push(seen);
            file = &file[16 + length..];
        }
        events
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn an_event_has_the_bytes_that_protobuf_gives_it() {
        // As Python's tensorboard serialises Event(wall_time=1.5, step=300, summary=…("loss", 2.0)).
        let event = encode(1.5, 300, Payload::Scalars(&[("loss", 2.0)]));
        let expected = b"\x09\0\0\0\0\0\0\xf8\x3f\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\0\0\0\x40";
        assert_eq!(event, expected);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let scratch = Scratch::new();
        let mut events = Events::create(scratch.path(), Start::New).unwrap();
        let row = Row::new(1_000_000).with(LOSS, 3.5f32).with(LR, 1e-4f32).with("note", "no number");
        events.append(&row).unwrap();
        events.scalars(1_000_001, &[(LOSS, f32::NAN)]).unwrap();
        let seen = parse(&fs::read(events.path()).unwrap());
        assert_eq!(seen[0].version.as_deref(), Some("brain.Event:2"));
        assert_eq!(seen[1].step, 1_000_000);
        assert_eq!(seen[1].scalars, [(LOSS.to_owned(), 3.5), (LR.to_owned(), 1e-4)]);
        assert!(seen[1].wall_time > 1.7e9);
        assert!(seen[2].scalars[0].1.is_nan());
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn a_resumed_run_has_a_file_more_and_says_where_it_goes_on() {
        let scratch = Scratch::new();
        let first = Events::create(scratch.path(), Start::New).unwrap();
        let second = Events::create(scratch.path(), Start::Resumed(100)).unwrap();
        assert!(first.path() < second.path());
        let seen = parse(&fs::read(second.path()).unwrap());
        assert_eq!((seen[1].step, seen[1].session), (101, Some(1)));
        let error = format!("{:#}", Events::create(&scratch.path().join("no"), Start::New).unwrap_err());
        assert!(error.contains("cannot make the file: "), "{error}");
    }
}
