//! Rows of a Parquet file as JSON objects.

use std::fs::File;
use std::path::Path;

use parquet::basic::Compression;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::forms::FIELDS;
use crate::error::{Context as _, Result, fail};

/// The rows of a file, in order.
pub struct Rows {
    rows: RowIter<'static>,
}

impl Rows {
    /// Opens a file, for the columns that mean something to samples.
    ///
    /// # Errors
    /// It is damaged, has none of the columns, or is packed in a way that is not supported.
    pub fn open(path: &Path) -> Result<Rows> {
        Rows::project(path, |column| FIELDS.contains(&column))
    }

    /// Opens a file, for all of its columns.
    ///
    /// # Errors
    /// As [`Rows::open`].
    pub fn all(path: &Path) -> Result<Rows> {
        Rows::project(path, |_| true)
    }

    fn project(path: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Rows> {
        let file = File::open(path).context(|| format!("{}: cannot open", path.display()))?;
        let cannot = || format!("{}: cannot be read as Parquet", path.display());
        let file = SerializedFileReader::new(file).context(cannot)?;
        let schema = file.metadata().file_metadata().schema_descr().root_schema();
        let columns = schema.get_fields();
        let wanted: Vec<_> = columns.iter().filter(|column| is_wanted(column.name())).cloned().collect();
        if wanted.is_empty() {
            let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
            fail!(
                "{}: expected the columns `messages`, `prompt` with `completion`, or `text`; there are `{}`",
                path.display(),
                names.join("`, `")
            );
        }
        for column in file.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            let packed = column.compression();
            let first = column.column_path().parts().first().map_or("", String::as_str);
            if is_wanted(first) && !matches!(packed, Compression::UNCOMPRESSED | Compression::SNAPPY) {
                fail!(
                    "{}: column {first} is packed with {packed}, which is not supported; write it again with Snappy, \
                     or as .jsonl",
                    path.display()
                );
            }
        }
        let projection =
            Type::group_type_builder(schema.name()).with_fields(wanted).build().context(cannot)?;
        let rows = RowIter::from_file_into(Box::new(file)).project(Some(projection)).context(cannot)?;
        Ok(Rows { rows })
    }

    /// The next row; none at the end.
    pub fn next(&mut self) -> Option<Result<Map<String, Value>>> {
        self.rows.next().map(|row| row.map(object).context(|| "cannot read the row"))
    }
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns().into_iter().map(|(name, field)| (name, value(&field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => (*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(text) => text.as_str().into(),
        // Some writers do not say that their bytes are text.
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => {
            Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
        }
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let name = |key: &Field| match key {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(key, field)| (name(key), value(field))).collect())
        }
        other => other.to_string().into(), // numbers of other kinds, dates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::column::writer::ColumnWriter;
    use parquet::data_type::ByteArray;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::json;
    use std::sync::Arc;

    const SCHEMA: &str = "message rows {
        optional group messages (LIST) {
            repeated group list {
                optional group element { optional binary role (UTF8); optional binary content (UTF8); }
            }
        }
        optional int32 id;
        optional binary text (UTF8);
    }";

    /// Two rows: a conversation, and a text.
    fn write(path: &Path, compression: Compression) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = File::create(path).unwrap();
        let mut file = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        let mut group = file.next_row_group().unwrap();
        // Definition levels of a value in the list: 4; of a null content: 3; of no list: 0.
        type Column<'a> = (&'a [&'a str], &'a [i16], Option<&'a [i16]>);
        let columns: [Column; 4] = [
            (&["user", "assistant"], &[4, 4, 0], Some(&[0, 1, 0])),
            (&["a é"], &[4, 3, 0], Some(&[0, 1, 0])),
            (&[], &[1, 1], None),
            (&["b"], &[0, 1], None),
        ];
        for (texts, definition, repetition) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let texts: Vec<ByteArray> = texts.iter().map(|&text| text.into()).collect();
                    writer.write_batch(&texts, Some(definition), repetition).unwrap();
                }
                ColumnWriter::Int32ColumnWriter(writer) => {
                    writer.write_batch(&[1, 2], Some(definition), repetition).unwrap();
                }
                _ => panic!("no such column"),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
        file.close().unwrap();
    }

    #[test]
    fn rows_are_the_objects_that_they_were() {
        let folder = std::env::temp_dir().join(format!("wootz-rows-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.parquet");
        write(&path, Compression::SNAPPY);
        let mut rows = Rows::open(&path).unwrap();
        let messages = json!([{"role": "user", "content": "a é"}, {"role": "assistant", "content": null}]);
        let expected = [json!({"messages": messages, "text": null}), json!({"messages": null, "text": "b"})];
        for row in expected {
            assert_eq!(Value::Object(rows.next().unwrap().unwrap()), row);
        }
        assert!(rows.next().is_none());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(Rows::open(&path).err().unwrap().to_string().contains("a.parquet: cannot be read"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
