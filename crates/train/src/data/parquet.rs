//! A column of text in a Parquet file. Pages may be packed with Snappy or not at all; what packs them otherwise needs
//! libraries in C, and is refused by name.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;

use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader as _, SerializedFileReader};

use super::documents::Field;
use crate::error::{Context as _, Error, Result, fail};

/// Rows that are read at once.
const ROWS: usize = 256;

/// Reads the rows of one column, in order.
pub(super) struct Column {
    file: SerializedFileReader<File>,
    column: usize,
    max_def_level: i16,
    next_group: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    rows: VecDeque<Option<ByteArray>>,
}

impl Column {
    /// Opens a file and finds the column that `field` names.
    pub fn open(path: &Path, field: &Field) -> Result<Column> {
        let file = File::open(path).context(|| format!("{}: cannot open", path.display()))?;
        let file = SerializedFileReader::new(file)
            .context(|| format!("{}: cannot be read as Parquet", path.display()))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let Some(column) = field.names().find_map(|name| names.iter().position(|other| other == name)) else {
            fail!(
                "{}: no column {}; there are {}: name one with --field",
                path.display(),
                field,
                names.join(", ")
            );
        };
        let about = schema.column(column);
        if about.physical_type() != Type::BYTE_ARRAY || about.max_rep_level() > 0 {
            fail!("{}: column {}: expected one text a row, found {about:?}", path.display(), names[column]);
        }
        for group in file.metadata().row_groups() {
            let packed = group.column(column).compression();
            if !matches!(packed, Compression::UNCOMPRESSED | Compression::SNAPPY) {
                fail!(
                    "{}: column {} is packed with {packed}, which is not supported; write it again with Snappy, \
                     or as .jsonl",
                    path.display(),
                    names[column]
                );
            }
        }
        let max_def_level = about.max_def_level();
        Ok(Column { file, column, max_def_level, next_group: 0, group: None, rows: VecDeque::new() })
    }

    /// The share of row groups that were begun.
    pub fn progress(&self) -> f64 {
        self.next_group as f64 / self.file.num_row_groups().max(1) as f64
    }

    /// The text of the next row, none at the end; `Some(None)` where the row has none.
    pub fn next(&mut self) -> Result<Option<Option<Vec<u8>>>> {
        while self.rows.is_empty() {
            let read = match &mut self.group {
                Some(group) => fill(group, self.max_def_level, &mut self.rows)?,
                None => 0,
            };
            if read > 0 {
                continue;
            }
            if self.next_group == self.file.num_row_groups() {
                return Ok(None);
            }
            let reader = self.file.get_row_group(self.next_group).context(|| "cannot read the rows")?;
            let reader = reader.get_column_reader(self.column).context(|| "cannot read the column")?;
            self.next_group += 1;
            self.group = match reader {
                ColumnReader::ByteArrayColumnReader(reader) => Some(reader),
                _ => return Err(Error::new("the column is of another type than the head says")),
            };
        }
        Ok(self.rows.pop_front().map(|row| row.map(|bytes| bytes.data().to_vec())))
    }
}

/// Reads some rows; returns how many.
fn fill(
    group: &mut ColumnReaderImpl<ByteArrayType>,
    max_def_level: i16,
    rows: &mut VecDeque<Option<ByteArray>>,
) -> Result<usize> {
    let (mut levels, mut values) = (Vec::with_capacity(ROWS), Vec::with_capacity(ROWS));
    let (records, ..) =
        group.read_records(ROWS, Some(&mut levels), None, &mut values).context(|| "cannot read the rows")?;
    let mut values = values.into_iter();
    if max_def_level == 0 {
        rows.extend(values.map(Some));
    } else {
        rows.extend(levels.iter().map(|&level| if level == max_def_level { values.next() } else { None }));
    }
    Ok(records)
}
