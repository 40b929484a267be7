//! `wootz pull ID`: what is on the Hugging Face hub, into the cache that Python's tools use too.

use anyhow::Result;

#[cfg(feature = "hub")]
use {
    crate::hub::{self, Show, Style, count, size},
    anyhow::bail,
    serde_json::{Value, json},
    std::path::PathBuf,
    std::time::Instant,
    wootz_hub::complete::{Found, Need},
    wootz_hub::pull::{Options, Pulled, Verified, pull},
    wootz_hub::{Kind, Reference, Selection, Settings, name},
};

/// Arguments of `wootz pull`.
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "it is read for what it says, and refused"))]
pub struct PullArgs {
    /// What to download: ORGANISATION/NAME, with @REVISION behind it if another than `main` is meant, and of several GGUF
    /// models with :NAME or :TYPE, as in ORGANISATION/NAME:Q4_K_M
    id: String,
    /// These files of it only [default: what a model needs, which leaves the same weights in other formats out]
    files: Vec<String>,
    /// A branch, a tag or a commit [default: main]
    #[arg(long, value_name = "R")]
    revision: Option<String>,
    /// Every file that fits this pattern (`*.json`, `data/*`), instead of what a model needs. May be given several times
    #[arg(long, value_name = "PATTERN", conflicts_with = "files")]
    include: Vec<String>,
    /// No file that fits this pattern. May be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// It is a data set: without patterns, all its files
    #[arg(long)]
    dataset: bool,
    /// Connections at the same time; a large file comes over all of them
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// Print the path and nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Downloads it, and prints where it is.
///
/// # Errors
/// There is no such thing on the hub, or not for this account; the network; the disk.
#[cfg(not(feature = "hub"))]
pub fn run(_: PullArgs) -> Result<()> {
    anyhow::bail!(crate::hub::WITHOUT)
}

/// Downloads it, and prints where it is.
///
/// # Errors
/// There is no such thing on the hub, or not for this account; the network; the disk.
#[cfg(feature = "hub")]
pub fn run(args: PullArgs) -> Result<()> {
    let begun = Instant::now();
    let settings = hub::settings()?;
    let reference = args.reference()?;
    let options = Options {
        exclude: args.exclude.clone(),
        connections: args.connections.into(),
        ..Options::new(args.selection(&reference))
    };
    let show = Show::new(&reference, if args.quiet { Style::Quiet } else { Style::Auto });
    let pulled = pull(&settings, &reference, &options, &show)?;
    drop(show);
    let path = args.path(&settings, &reference, &pulled)?;
    if args.json {
        println!("{}", describe(&reference, &pulled, &path, begun));
        return Ok(());
    }
    if !args.quiet {
        let unchecked = pulled.files.iter().filter(|file| file.verified == Some(Verified::Length)).count();
        let checked = match unchecked {
            0 => String::new(),
            n => format!("; for {} the server gives no checksum, and only the length was checked", count(n)),
        };
        crate::commands::answer::note(&format!(
            "{reference}: {}, {}, of which {} were downloaded{checked}",
            count(pulled.files.len()),
            size(pulled.bytes()),
            size(pulled.fetched())
        ));
    }
    println!("{}", path.display());
    Ok(())
}

#[cfg(feature = "hub")]
impl PullArgs {
    fn reference(&self) -> Result<Reference> {
        let kind = if self.dataset { Kind::Dataset } else { Kind::Model };
        let Some(mut reference) = Reference::parse(kind, &self.id) else {
            bail!("{}: expected ORGANISATION/NAME, perhaps with @REVISION and :CHOICE behind it", self.id);
        };
        if let Some(revision) = &self.revision {
            if reference.revision != name::MAIN {
                bail!("{}: names a revision, and so does --revision {revision}", self.id);
            }
            name::check_revision(revision)?;
            reference.revision.clone_from(revision);
        }
        if reference.choice.is_some() && (self.dataset || !self.files.is_empty() || !self.include.is_empty())
        {
            bail!("{}: a choice behind a colon is for GGUF models, and goes with no other files", self.id);
        }
        Ok(reference)
    }

    fn selection(&self, reference: &Reference) -> Selection {
        if !self.files.is_empty() {
            Selection::Files(self.files.clone())
        } else if !self.include.is_empty() {
            Selection::Matching(self.include.clone())
        } else {
            Selection::Model { choice: reference.choice.clone() }
        }
    }

    /// What to give to another command: the model, the one file that was asked for, or the folder.
    fn path(&self, settings: &Settings, reference: &Reference, pulled: &Pulled) -> Result<PathBuf> {
        let is_model = !self.dataset && self.files.is_empty() && self.include.is_empty();
        Ok(match (self.files.as_slice(), pulled.files.as_slice()) {
            ([_], [file]) => file.path.clone(),
            _ if is_model => match hub::in_cache(settings, reference, Need::Model) {
                Ok(Found::Whole(path)) => path,
                // Other models are in the cache too, or --exclude has left something out.
                Ok(Found::Missing(_)) | Err(_) => pulled.snapshot.folder.clone(),
            },
            _ => pulled.snapshot.folder.clone(),
        })
    }
}

#[cfg(feature = "hub")]
fn describe(reference: &Reference, pulled: &Pulled, path: &std::path::Path, begun: Instant) -> Value {
    let files: Vec<Value> = pulled
        .files
        .iter()
        .map(|file| {
            json!({
                "name": file.name,
                "path": file.path.display().to_string(),
                "bytes": file.bytes,
                "downloaded_bytes": file.fetched,
                // Nothing for a file that was there already.
                "verified": file.verified.map(Verified::name),
            })
        })
        .collect();
    json!({
        "repository": reference.repo.to_string(),
        "kind": reference.repo.kind.name(),
        "revision": reference.revision,
        "commit": pulled.snapshot.commit,
        "path": path.display().to_string(),
        "bytes": pulled.bytes(),
        "downloaded_bytes": pulled.fetched(),
        "elapsed_seconds": begun.elapsed().as_secs_f64(),
        "files": files,
    })
}
