//! Model files for tests: the fixtures, and small ones made on the spot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use wootz_formats::Checkpoint;

/// A fixture folder in the repository, or its original.
pub fn fixture(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = std::env::var_os("WOOTZ_FIXTURES").map_or(root.join("tests/fixtures"), PathBuf::from);
    [own, shared().join("fixtures")].into_iter().map(|folder| folder.join(name)).find(|path| path.exists())
}

/// The folder of reference data that does not belong to the repository.
pub fn shared() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    std::env::var_os("WOOTZ_SHARED").map_or(default, PathBuf::from)
}

/// Every model among the fixtures: folders with a config.json, and files of the other formats.
pub fn models() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let own = fixture("llama-micro").and_then(|path| path.parent().map(Path::to_owned));
    let shared = shared().join("fixtures");
    for folder in own.iter().chain([&shared]) {
        collect(folder, &mut found);
    }
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    if folder.join("config.json").exists() {
        found.push(folder.to_owned());
    }
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_model = name.ends_with(".gguf")
            || ["llama2c.bin", "model.bin", "model_bf16.bin"].contains(&name.as_str());
        if path.is_dir() {
            collect(&path, found);
        } else if is_model {
            found.push(path);
        }
    }
}

/// A folder that is removed when it goes out of scope.
pub struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wootz-arch-{}-{n}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens a safetensors model with this config and tensors of type F32, BF16, …; all zero but for the last byte of each,
/// which is `fill(name)`.
pub fn safetensors(
    config: &Value,
    dtype: &str,
    tensors: &[(String, Vec<usize>)],
    fill: impl Fn(&str) -> u8,
) -> (Scratch, Checkpoint) {
    let width = if dtype == "F32" { 4 } else { 2 };
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        data.resize(start + shape.iter().product::<usize>() * width, 0);
        *data.last_mut().unwrap() = fill(name);
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    let scratch = Scratch::new();
    fs::write(scratch.0.join("model.safetensors"), file).unwrap();
    fs::write(scratch.0.join("config.json"), config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(&scratch.0).unwrap();
    (scratch, checkpoint)
}

/// A metadata value to write.
#[derive(Clone, Debug)]
pub enum Meta {
    Text(&'static str),
    Size(u32),
    Number(f32),
    Sizes(Vec<i32>),
}

/// Opens a GGUF file with these keys and F32 tensors, whose elements are 1, 2, 3, …
pub fn gguf(keys: &[(&str, Meta)], tensors: &[(String, Vec<usize>)]) -> (Scratch, Checkpoint) {
    fn text(file: &mut Vec<u8>, text: &str) {
        file.extend_from_slice(&(text.len() as u64).to_le_bytes());
        file.extend_from_slice(text.as_bytes());
    }
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    file.extend_from_slice(&(keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut file, key);
        match value {
            Meta::Size(n) => file.extend([4u32, *n].map(u32::to_le_bytes).concat()),
            Meta::Number(x) => {
                file.extend(6u32.to_le_bytes());
                file.extend(x.to_le_bytes());
            }
            Meta::Text(value) => {
                file.extend(8u32.to_le_bytes());
                text(&mut file, value);
            }
            Meta::Sizes(list) => {
                file.extend([9u32, 5].map(u32::to_le_bytes).concat());
                file.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|n| file.extend(n.to_le_bytes()));
            }
        }
    }
    let mut offset = 0u64;
    for (name, shape) in tensors {
        text(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&n| file.extend((n as u64).to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += (shape.iter().product::<usize>() as u64 * 4).next_multiple_of(32);
    }
    for (_, shape) in tensors {
        file.resize(file.len().next_multiple_of(32), 0);
        (0..shape.iter().product::<usize>()).for_each(|i| file.extend((1.0 + i as f32).to_le_bytes()));
    }
    file.resize(file.len().next_multiple_of(32), 0);
    let scratch = Scratch::new();
    let path = scratch.0.join("model.gguf");
    fs::write(&path, file).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    (scratch, checkpoint)
}
