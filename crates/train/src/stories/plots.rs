//! What can happen in a story: one table of plots, in files by theme.

mod courage;
mod friendship;
mod home;
mod making;
mod outdoors;

/// Who a plot can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Children only: the plot needs a school, a bicycle or a pet.
    Children,
    /// Children, or animals that talk.
    Anyone,
}

/// Slots that are chosen together. With `n` slots and rows of `w` values, `n / w` different rows are drawn,
/// and their values go to the slots in order: the way to say what fits with what, and what must differ.
#[derive(Debug)]
pub struct Choice {
    /// The slots that are set.
    pub slots: &'static [&'static str],
    /// The rows to draw from, each of the same length. Values are templates, and may use slots set earlier.
    pub rows: &'static [&'static [&'static str]],
}

/// A story's course. Every step is told in one of its phrasings.
#[derive(Debug)]
pub struct Plot {
    /// What the plot is called.
    pub name: &'static str,
    /// Who it can be told of.
    pub cast: Cast,
    /// What is decided before the story begins.
    pub choices: &'static [Choice],
    /// Paragraphs of steps of phrasings. The first paragraph comes after the hero's introduction.
    pub paragraphs: &'static [&'static [&'static [&'static str]]],
}

/// Every plot, by theme.
pub const PLOTS: &[&[Plot]] =
    &[home::PLOTS, outdoors::PLOTS, friendship::PLOTS, courage::PLOTS, making::PLOTS];
