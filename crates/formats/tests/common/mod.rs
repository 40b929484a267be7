//! Where reference files are, and a writer of small GGUF files.
#![allow(dead_code)] // each test file uses a part

use std::path::{Path, PathBuf};

/// Folders with fixtures, the project's own first, then those that are shared between projects.
pub fn roots() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = std::env::var_os("WOOTZ_FIXTURES").map_or(workspace.join("tests/fixtures"), PathBuf::from);
    let shared = std::env::var_os("WOOTZ_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    vec![own, shared.join("fixtures"), shared.join("tokenizers")]
}

/// A fixture by its path below a root; says that the test is skipped when it is nowhere.
pub fn fixture(name: &str) -> Option<PathBuf> {
    let found = roots().into_iter().map(|root| root.join(name)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: no fixture {name}");
    }
    found
}

/// All files below the roots whose names end so, each relative name once.
pub fn fixtures_ending(suffix: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, suffix: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for path in entries.flatten().map(|e| e.path()) {
            if path.is_dir() {
                walk(&path, suffix, found);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    let mut all: Vec<PathBuf> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for root in roots() {
        let mut found = Vec::new();
        walk(&root, suffix, &mut found);
        found.sort();
        for path in found {
            if seen.insert(path.strip_prefix(&root).unwrap().to_owned()) {
                all.push(path);
            }
        }
    }
    if all.is_empty() {
        println!("skipped: no fixture that ends in {suffix}");
    }
    all
}

/// A folder that is removed when the test ends.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wootz-formats-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A GGUF file made field by field, so that each can be made wrong.
#[derive(Clone)]
pub struct GgufFile {
    pub version: u32,
    pub entries: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<GgufTensor>,
    pub alignment: usize,
}

#[derive(Clone)]
pub struct GgufTensor {
    pub name: Vec<u8>,
    pub ne: Vec<u64>,
    pub type_id: u32,
    pub offset: u64,
    pub data: Vec<u8>,
}

impl GgufFile {
    pub fn new() -> Self {
        GgufFile { version: 3, entries: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &gguf_string(value.as_bytes()))
    }

    pub fn u16(self, key: &str, value: u16) -> Self {
        self.raw(key, 2, &value.to_le_bytes())
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn i32(self, key: &str, value: i32) -> Self {
        self.raw(key, 5, &value.to_le_bytes())
    }

    /// An array of `count` elements of type `element`, whose bytes are `bytes`.
    pub fn array(self, key: &str, element: u32, count: u64, bytes: &[u8]) -> Self {
        let mut value = element.to_le_bytes().to_vec();
        value.extend(count.to_le_bytes());
        value.extend(bytes);
        self.raw(key, 9, &value)
    }

    pub fn strings(self, key: &str, values: &[&str]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| gguf_string(v.as_bytes())).collect();
        self.array(key, 8, values.len() as u64, &bytes)
    }

    pub fn raw(mut self, key: &str, type_id: u32, value: &[u8]) -> Self {
        let mut bytes = type_id.to_le_bytes().to_vec();
        bytes.extend(value);
        self.entries.push((key.to_owned(), bytes));
        self
    }

    /// A tensor behind those before it.
    pub fn tensor(mut self, name: &str, ne: &[u64], type_id: u32, data: Vec<u8>) -> Self {
        let end = self.tensors.last().map_or(0, |t| t.offset as usize + t.data.len());
        let offset = end.next_multiple_of(self.alignment) as u64;
        self.tensors.push(GgufTensor { name: name.into(), ne: ne.to_vec(), type_id, offset, data });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            out.extend(gguf_string(key.as_bytes()));
            out.extend(value);
        }
        for t in &self.tensors {
            out.extend(gguf_string(&t.name));
            out.extend((t.ne.len() as u32).to_le_bytes());
            t.ne.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(t.type_id.to_le_bytes());
            out.extend(t.offset.to_le_bytes());
        }
        if self.tensors.is_empty() {
            return out;
        }
        // Where the data goes does not depend on `offset`, which may have been made wrong.
        let start = out.len().next_multiple_of(self.alignment);
        out.resize(start, 0);
        for t in &self.tensors {
            out.resize(start + (out.len() - start).next_multiple_of(self.alignment), 0);
            out.extend(&t.data);
        }
        out
    }
}

fn gguf_string(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend(bytes);
    out
}

/// A GGUF file that has a bit of everything.
pub fn sample_gguf() -> GgufFile {
    GgufFile::new()
        .string("general.architecture", "llama")
        .u32("general.alignment", 32)
        .u32("llama.block_count", 1)
        .raw("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes())
        .raw("flag", 7, &[1])
        .raw("wide", 11, &(-5i64).to_le_bytes())
        .strings("tokenizer.ggml.tokens", &["<unk>", "", "é", "\u{2581}a"])
        .array("tokenizer.ggml.scores", 6, 4, &[0; 16])
        .array("nested", 9, 1, &[4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0])
        .tensor("token_embd.weight", &[32, 4], 8, (0..136).map(|i| i as u8).collect())
        .tensor("output_norm.weight", &[3], 0, vec![1; 12])
        .tensor("scalar", &[], 0, vec![2; 4])
}
