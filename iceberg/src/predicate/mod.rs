//! [`Predicate`]: which rows a query wants, and which files may have such rows.
//!
//! ```text
//!  text ──parse──► Predicate ──bind──► BoundPredicate: columns by number, literals as values of their types
//!                                           │
//!   manifest entry ──► metrics ─────────► Range of a column in the file ──► may a value in it be wanted?
//!                  └─► partition, spec ─► Range, by the transform
//! ```
//!
//! A file is left out only when it cannot have a row that any engine would call a match: what is not told, not
//! understood, or read in more than one way keeps it. The language is SQL's, and so is its logic: a comparison with
//! null is not true.
mod bind;
mod bound;
mod error;
mod filter;
mod lexer;
mod literal;
mod parser;
mod range;
#[cfg(test)]
mod tests;
mod transform;
mod value;

pub use bound::BoundPredicate;
pub use error::PredicateError;
pub(crate) use filter::Filter;

use literal::Literal;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// Which rows a query wants: the condition after WHERE.
///
/// Columns (dotted, or in double quotes or backticks) with `=`, `!=`, `<>`, `<`, `<=`, `>`, `>=`, `[NOT] IN (…)`,
/// `[NOT] BETWEEN … AND …`, `IS [NOT] NULL`, `[NOT] LIKE '…'`; boolean columns alone; `AND`, `OR`, `NOT`,
/// parentheses, `TRUE`, `FALSE`. Literals: `5`, `-1.5`, `'it''s'`, `DATE '2026-01-31'`, `TIMESTAMP '2026-01-31 12:00:00'`,
/// `X'00FF'`, `TRUE`, `FALSE`; dates, times and UUIDs may be plain strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predicate(Node);

/// A part of a predicate. As deep as parentheses and NOT stand within each other, and no deeper.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Constant(bool),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test {
        /// The name as it was written, without its quotes.
        column: String,
        test: Test,
    },
}

/// What is asked of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    IsNull { negated: bool },
    Compare(Comparison, Literal),
    In { literals: Vec<Literal>, negated: bool },
    Between { low: Literal, high: Literal, negated: bool },
    Like { pattern: String, negated: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// The same with its sides exchanged.
    fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }

    /// True where this is false.
    fn negated(self) -> Self {
        match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Less => Self::GreaterOrEqual,
            Self::LessOrEqual => Self::Greater,
            Self::Greater => Self::LessOrEqual,
            Self::GreaterOrEqual => Self::Less,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Predicate {
    /// Reads a predicate.
    ///
    /// # Errors
    /// [`PredicateError`] says where it is wrong, and what may stand there.
    pub fn parse(text: &str) -> Result<Self, PredicateError> {
        parser::parse(text).map(Self)
    }

    /// The names of the columns as they are written in it, each once, in their order.
    pub fn columns(&self) -> Vec<&str> {
        fn gather<'a>(node: &'a Node, names: &mut Vec<&'a str>) {
            match node {
                Node::Constant(_) => {}
                Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|node| gather(node, names)),
                Node::Not(node) => gather(node, names),
                Node::Test { column, .. } => names.push(column),
            }
        }
        let (mut names, mut seen) = (Vec::new(), HashSet::new());
        gather(&self.0, &mut names);
        names.retain(|name| seen.insert(*name));
        names
    }
}

impl FromStr for Predicate {
    type Err = PredicateError;

    fn from_str(text: &str) -> Result<Self, PredicateError> {
        Self::parse(text)
    }
}

impl fmt::Display for Predicate {
    /// As [`parse`](Predicate::parse) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Node {
    /// Within another one: in parentheses, where they are needed.
    fn inner(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(_) | Self::Any(_) => write!(f, "({self})"),
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, nodes: &[Self], by: &str| {
            for (n, node) in nodes.iter().enumerate() {
                f.write_str(if n == 0 { "" } else { by })?;
                node.inner(f)?;
            }
            Ok(())
        };
        match self {
            Self::Constant(value) => f.write_str(if *value { "TRUE" } else { "FALSE" }),
            Self::All(nodes) => joined(f, nodes, " AND "),
            Self::Any(nodes) => joined(f, nodes, " OR "),
            Self::Not(node) => {
                f.write_str("NOT ")?;
                node.inner(f)
            }
            Self::Test { column, test } => {
                lexer::write_name(f, column)?;
                write!(f, "{test}")
            }
        }
    }
}

impl fmt::Display for Test {
    /// What stands behind the column.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { " NOT" } else { "" };
        match self {
            Self::IsNull { negated } => write!(f, " IS{} NULL", not(negated)),
            Self::Compare(comparison, literal) => write!(f, " {} {literal}", comparison.symbol()),
            Self::In { literals, negated } => {
                write!(f, "{} IN (", not(negated))?;
                for (n, literal) in literals.iter().enumerate() {
                    write!(f, "{}{literal}", if n == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            Self::Between { low, high, negated } => write!(f, "{} BETWEEN {low} AND {high}", not(negated)),
            Self::Like { pattern, negated } => {
                write!(f, "{} LIKE {}", not(negated), Literal::String(pattern.clone()))
            }
        }
    }
}
