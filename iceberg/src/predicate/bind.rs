//! How a predicate finds the columns of a schema.
use super::bound::{Bound, BoundPredicate, Question};
use super::literal::{Literal, Operand};
use super::range::Ask;
use super::transform::hash;
use super::{Comparison, Node, Predicate, PredicateError, Test};
use crate::metadata::{Field, Fields, Type};
use std::cmp::Ordering;
use std::collections::HashMap;

impl Predicate {
    /// The predicate on the columns of a schema.
    ///
    /// # Errors
    /// [`PredicateError`]: there is no such column, or it cannot be asked that.
    pub fn bind(&self, fields: &Fields) -> Result<BoundPredicate, PredicateError> {
        let mut binder = Binder { fields, ids: Vec::new(), places: HashMap::new() };
        let node = binder.node(&self.0, false)?;
        Ok(BoundPredicate { node, ids: binder.ids })
    }
}

struct Binder<'a> {
    fields: &'a Fields,
    ids: Vec<i32>,
    places: HashMap<i32, usize>,
}

impl Binder<'_> {
    /// `negated`: a NOT is before it. It goes down to what is asked, since "may have none" is not "has all".
    fn node(&mut self, node: &Node, negated: bool) -> Result<Bound, PredicateError> {
        let mut each = |nodes: &[Node]| -> Result<Vec<Bound>, PredicateError> {
            nodes.iter().map(|node| self.node(node, negated)).collect()
        };
        Ok(match node {
            Node::Constant(value) => Bound::Constant(*value != negated),
            Node::All(nodes) if negated => Bound::Any(each(nodes)?),
            Node::Any(nodes) if negated => Bound::All(each(nodes)?),
            Node::All(nodes) => Bound::All(each(nodes)?),
            Node::Any(nodes) => Bound::Any(each(nodes)?),
            Node::Not(node) => self.node(node, !negated)?,
            Node::Test { column, test } => self.test(column, test, negated)?,
        })
    }

    fn test(&mut self, name: &str, test: &Test, negated: bool) -> Result<Bound, PredicateError> {
        let fields = self.fields;
        let known = || PredicateError::NoColumn { name: name.to_owned(), known: fields.some_names() };
        let field = fields.find(name).ok_or_else(known)?;
        if field.repeated {
            return Err(PredicateError::NotComparable {
                column: field.name.clone(),
                kind: format!("{} in a list or a map", field.kind),
                advice: "leave it out of the predicate",
            });
        }
        let operands = |literals: &[Literal]| {
            let all: Result<Vec<_>, _> = literals.iter().map(|literal| literal.of(field)).collect();
            all.map(|mut all| {
                all.sort_by(|one, other| one.low.compare(&other.low).unwrap_or(Ordering::Equal));
                all
            })
        };
        let (nans, ask) = match test {
            Test::IsNull { negated: own } if *own == negated => (false, Ask::Null),
            Test::IsNull { .. } => (false, Ask::NotNull),
            Test::Compare(comparison, literal) => compared(*comparison, literal.of(field)?, negated),
            Test::In { literals, negated: own } if *own == negated => {
                (false, Ask::OneOf(apart(operands(literals)?)))
            }
            Test::In { literals, .. } => (true, Ask::NoneOf(operands(literals)?)),
            Test::Between { low, high, negated: own } => {
                let (low, high) = (low.of(field)?, high.of(field)?);
                let outside = *own != negated;
                let (least, most) = (Comparison::GreaterOrEqual, Comparison::LessOrEqual);
                let ends = [compared(least, low, outside), compared(most, high, outside)];
                // NaN is between nothing.
                let ends = ends.map(|(nans, ask)| self.question(field, nans && outside, ask)).to_vec();
                return Ok(if outside { Bound::Any(ends) } else { Bound::All(ends) });
            }
            Test::Like { pattern, negated: own } => {
                if field.kind != Type::String {
                    return Err(PredicateError::NotComparable {
                        column: field.name.clone(),
                        kind: field.kind.to_string(),
                        advice: "LIKE is for strings alone: use =, <, IN or BETWEEN",
                    });
                }
                match *own == negated {
                    true => (false, Ask::Prefix(prefix(pattern))),
                    false => (false, Ask::NotNull),
                }
            }
        };
        let question = self.question(field, nans, ask);
        // Nothing is told of a struct, a list or a map itself; what of a variant is null, its file alone knows.
        let is_told = field.kind.is_primitive() && !matches!(field.kind, Type::Other(_));
        Ok(if is_told { question } else { Bound::Constant(true) })
    }

    fn question(&mut self, field: &Field, nans: bool, ask: Ask) -> Bound {
        let column = *self.places.entry(field.id).or_insert_with(|| {
            self.ids.push(field.id);
            self.ids.len() - 1
        });
        let hashes = match &ask {
            Ask::OneOf(operands) => operands.iter().map(|one| hash(&field.kind, one.only()?)).collect(),
            _ => Vec::new(),
        };
        Bound::Ask(Question { column, kind: field.kind.clone(), nested: field.nested, nans, ask, hashes })
    }
}

/// What overlaps as one, so that the greatest of each ascend as the least do: a time without a zone may be any of many.
fn apart(ascending: Vec<Operand>) -> Vec<Operand> {
    let mut apart: Vec<Operand> = Vec::with_capacity(ascending.len());
    for one in ascending {
        let is_beyond = |last: &Operand| one.low.compare(&last.high).is_none_or(Ordering::is_gt);
        match apart.last_mut().filter(|last| !is_beyond(last)) {
            Some(last) if one.high.compare(&last.high) == Some(Ordering::Greater) => last.high = one.high,
            Some(_) => {}
            None => apart.push(one),
        }
    }
    apart
}

/// What a comparison asks, and whether NaN is an answer. For some engines NaN is greater than all numbers, for others no
/// comparison with it is true; whoever reads NOT before one takes it for its answer then.
fn compared(comparison: Comparison, operand: Operand, negated: bool) -> (bool, Ask) {
    let is_greater = matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual);
    let comparison = if negated { comparison.negated() } else { comparison };
    match comparison {
        Comparison::Equal => (false, Ask::OneOf(vec![operand])),
        Comparison::NotEqual => (true, Ask::NoneOf(vec![operand])),
        Comparison::Less => (negated && is_greater, Ask::Less(operand, false)),
        Comparison::LessOrEqual => (negated && is_greater, Ask::Less(operand, true)),
        Comparison::Greater => (true, Ask::Greater(operand, false)),
        Comparison::GreaterOrEqual => (true, Ask::Greater(operand, true)),
    }
}

/// What all text begins with that is like a pattern. A backslash is an escape for some engines.
fn prefix(pattern: &str) -> Vec<u8> {
    let end = pattern.find(['%', '_', '\\']).unwrap_or(pattern.len());
    pattern.as_bytes()[..end].to_vec()
}
