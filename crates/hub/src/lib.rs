//! Files of the Hugging Face hub: what they are called, where they lie on disk, and how they come there.
//!
//! The cache is that of Python's `huggingface_hub`: what one program has downloaded, the other finds. Whatever a server
//! says is checked before it becomes a path, an allocation or a message; a file has its name in the cache only once all its
//! bytes are there and their checksum is right.
//!
//! In reading order:
//! - [`name`]: repositories, revisions, files, and which names may become paths
//! - [`settings`]: where the hub and the cache are, and who asks
//! - [`cache`]: the cache on disk; [`complete`]: whether what is there is enough
//! - [`selection`]: which files of a repository are wanted
//! - `http`, over `url` and `tls`: requests, redirects, the token; `client`: what the hub is asked
//! - `download`, with `checksum`: one file, from where it ended; `lock`: one writer at a time
//! - `pull`: a repository

#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "network"), allow(dead_code, reason = "some of it is for downloading alone"))]

pub mod cache;
#[cfg(feature = "network")]
mod checksum;
#[cfg(feature = "network")]
pub mod client;
pub mod complete;
#[cfg(feature = "network")]
mod download;
pub mod error;
#[cfg(feature = "network")]
mod http;
#[cfg(feature = "network")]
mod lock;
pub mod name;
#[cfg(feature = "network")]
pub mod pull;
pub mod selection;
pub mod settings;
#[cfg(feature = "network")]
mod tls;
#[cfg(feature = "network")]
mod url;

pub use cache::{Cache, Snapshot};
pub use error::{Error, Result};
pub use name::{Kind, Reference, Repo};
pub use selection::Selection;
pub use settings::{Settings, Token};
#[cfg(feature = "network")]
pub use tls::agent;
