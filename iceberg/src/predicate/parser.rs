//! The grammar of predicates.
use super::lexer::{Lexeme, Token, is_reserved, lexemes, position, syntax};
use super::literal::Literal;
use super::{Comparison, Node, PredicateError, Test};

/// Parentheses and NOT within each other, at most: what recurs over a predicate goes no deeper.
pub(super) const DEPTH_MAX: usize = 64;

/// Reads a predicate.
pub(super) fn parse(text: &str) -> Result<Node, PredicateError> {
    let mut parser = Parser { text, lexemes: lexemes(text)?, at: 0, depth: 0 };
    let node = parser.any()?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => Err(parser.expected("AND, OR, an operator (=, <, IN, BETWEEN, LIKE, IS NULL, …) or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    lexemes: Vec<Lexeme>,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.ahead(0)
    }

    /// The last one is the end, and stays.
    fn ahead(&self, by: usize) -> &Token {
        self.lexemes.get(self.at + by).map_or(&Token::End, |lexeme| &lexeme.token)
    }

    fn expected(&self, what: &'static str) -> PredicateError {
        let end = self.text.len();
        let (at, end) = self.lexemes.get(self.at).map_or((end, end), |lexeme| (lexeme.at, lexeme.end));
        syntax(self.text, at, end, what)
    }

    fn is_word(&self, by: usize, word: &str) -> bool {
        matches!(self.ahead(by), Token::Word(found) if found.eq_ignore_ascii_case(word))
    }

    /// Whether this word comes next; then it is passed.
    fn word(&mut self, word: &str) -> bool {
        let is_next = self.is_word(0, word);
        self.at += usize::from(is_next);
        is_next
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let is_next = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        self.at += usize::from(is_next);
        is_next
    }

    fn any(&mut self) -> Result<Node, PredicateError> {
        self.joined("OR", Self::all, Node::Any)
    }

    fn all(&mut self) -> Result<Node, PredicateError> {
        self.joined("AND", Self::not, Node::All)
    }

    fn joined(
        &mut self,
        by: &str,
        part: impl Fn(&mut Self) -> Result<Node, PredicateError>,
        join: impl Fn(Vec<Node>) -> Node,
    ) -> Result<Node, PredicateError> {
        let first = part(self)?;
        if !self.is_word(0, by) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.word(by) {
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    /// What stands in parentheses or behind a NOT.
    fn deeper(
        &mut self,
        inner: impl Fn(&mut Self) -> Result<Node, PredicateError>,
    ) -> Result<Node, PredicateError> {
        if self.depth >= DEPTH_MAX {
            let at = self.lexemes.get(self.at).map_or(self.text.len(), |lexeme| lexeme.at);
            return Err(PredicateError::TooDeep { position: position(self.text, at), limit: DEPTH_MAX });
        }
        self.depth += 1;
        let node = inner(self);
        self.depth -= 1;
        node
    }

    fn not(&mut self) -> Result<Node, PredicateError> {
        if self.word("NOT") {
            return Ok(Node::Not(Box::new(self.deeper(Self::not)?)));
        }
        if self.symbol("(") {
            let node = self.deeper(Self::any)?;
            return if self.symbol(")") { Ok(node) } else { Err(self.expected("AND, OR or ')'")) };
        }
        self.test()
    }

    fn test(&mut self) -> Result<Node, PredicateError> {
        if let Some(literal) = self.literal()? {
            return match (self.comparison(), literal) {
                (Some(comparison), literal) => {
                    let column = self.column()?.ok_or_else(|| self.expected("a column"))?;
                    Ok(Node::Test { column, test: Test::Compare(comparison.mirrored(), literal) })
                }
                (None, Literal::Boolean(value)) => Ok(Node::Constant(value)),
                (None, _) => Err(self.expected("=, !=, <, <=, > or >= and a column")),
            };
        }
        let column = self.column()?.ok_or_else(|| self.expected("a column, a literal, NOT or '('"))?;
        let test = self.of_column()?;
        Ok(Node::Test { column, test })
    }

    /// A column; in quotes where it is called as a word of the language.
    fn column(&mut self) -> Result<Option<String>, PredicateError> {
        match self.peek() {
            Token::Word(word) if is_reserved(word) => {
                Err(self.expected("a column (in double quotes, if it is called so)"))
            }
            Token::Word(name) | Token::Name(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(Some(name))
            }
            _ => Ok(None),
        }
    }

    fn of_column(&mut self) -> Result<Test, PredicateError> {
        if let Some(comparison) = self.comparison() {
            return Ok(Test::Compare(comparison, self.need_literal()?));
        }
        if self.word("IS") {
            let negated = self.word("NOT");
            return match self.word("NULL") {
                true => Ok(Test::IsNull { negated }),
                false => Err(self.expected("NULL or NOT NULL")),
            };
        }
        let negated = self.word("NOT");
        if self.word("IN") {
            return Ok(Test::In { literals: self.list()?, negated });
        }
        if self.word("BETWEEN") {
            let low = self.need_literal()?;
            if !self.word("AND") {
                return Err(self.expected("AND and the upper end of BETWEEN"));
            }
            return Ok(Test::Between { low, high: self.need_literal()?, negated });
        }
        if self.word("LIKE") {
            let Token::String(pattern) = self.peek().clone() else {
                return Err(self.expected("a pattern like 'prefix%'"));
            };
            self.at += 1;
            return Ok(Test::Like { pattern, negated });
        }
        if negated {
            return Err(self.expected("IN, BETWEEN or LIKE"));
        }
        // Alone: it is a truth itself.
        Ok(Test::Compare(Comparison::Equal, Literal::Boolean(true)))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let Token::Symbol(symbol) = self.peek() else { return None };
        let comparison = match *symbol {
            "=" | "==" => Comparison::Equal,
            "!=" | "<>" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.at += 1;
        Some(comparison)
    }

    fn list(&mut self) -> Result<Vec<Literal>, PredicateError> {
        if !self.symbol("(") {
            return Err(self.expected("'(' and literals"));
        }
        let mut literals = vec![self.need_literal()?];
        while self.symbol(",") {
            literals.push(self.need_literal()?);
        }
        if self.symbol(")") { Ok(literals) } else { Err(self.expected("',' or ')'")) }
    }

    fn need_literal(&mut self) -> Result<Literal, PredicateError> {
        if self.is_word(0, "NULL") {
            return Err(self.expected("a literal (for null: IS NULL)"));
        }
        self.literal()?.ok_or_else(|| {
            self.expected("a literal: a number, 'text', DATE '…', TIMESTAMP '…', X'…', TRUE or FALSE")
        })
    }

    /// A literal, if one comes next.
    fn literal(&mut self) -> Result<Option<Literal>, PredicateError> {
        let sign = if self.symbol("-") {
            Some("-")
        } else if self.symbol("+") {
            Some("")
        } else {
            None
        };
        if let Token::Number(digits) = self.peek() {
            let number = format!("{}{digits}", sign.unwrap_or_default());
            self.at += 1;
            return Ok(Some(Literal::Number(number)));
        }
        if sign.is_some() {
            return Err(self.expected("a number"));
        }
        if let (Token::Word(kind), Token::String(text)) = (self.peek(), self.ahead(1)) {
            let literal = match kind.to_ascii_uppercase().as_str() {
                "DATE" => Literal::Date(text.clone()),
                "TIMESTAMP" => Literal::Timestamp(text.clone()),
                _ => return Ok(None),
            };
            self.at += 2;
            return Ok(Some(literal));
        }
        let literal = match self.peek() {
            Token::String(text) => Literal::String(text.clone()),
            Token::Binary(bytes) => Literal::Binary(bytes.clone()),
            Token::Word(word) if word.eq_ignore_ascii_case("TRUE") => Literal::Boolean(true),
            Token::Word(word) if word.eq_ignore_ascii_case("FALSE") => Literal::Boolean(false),
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(literal))
    }
}
