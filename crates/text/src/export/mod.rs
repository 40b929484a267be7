//! A tokenizer as files, whatever it was read from: the metadata of a GGUF file, the files of a model's folder.

mod folder;
mod gguf;
