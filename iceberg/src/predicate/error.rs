//! [`PredicateError`]: what is wrong with a predicate, and how to write it.

/// What is wrong with a predicate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PredicateError {
    /// It is not of the grammar.
    #[error("at character {position} of the predicate: expected {expected}, found {found}")]
    Syntax {
        /// Which character of the text, the first being 1.
        position: usize,
        /// What may stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// It is longer than any that people write.
    #[error("the predicate has {size} bytes, at most {limit} are possible: pin parts of it one by one")]
    TooLong {
        /// How long it is.
        size: usize,
        /// The bound.
        limit: usize,
    },
    /// Parentheses and NOT within each other.
    #[error(
        "at character {position} of the predicate: it is nested more than {limit} deep: write it with fewer parentheses"
    )]
    TooDeep {
        /// Where the bound is passed.
        position: usize,
        /// The bound.
        limit: usize,
    },
    /// The table has no such column, or several that differ in case.
    #[error("the table has no column '{name}'; it has {known}")]
    NoColumn {
        /// What was asked for.
        name: String,
        /// Some that it has.
        known: String,
    },
    /// A column that can only be null or not, or not even that.
    #[error("column '{column}' is of type {kind}, which cannot be compared so; {advice}")]
    NotComparable {
        /// Its name.
        column: String,
        /// Its type.
        kind: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// The literal is none of its type.
    #[error("column '{column}' is of type {kind}, and {literal} is none of it: write it like {example}")]
    Literal {
        /// Its name.
        column: String,
        /// Its type.
        kind: String,
        /// What was written.
        literal: String,
        /// How to write it.
        example: &'static str,
    },
}
