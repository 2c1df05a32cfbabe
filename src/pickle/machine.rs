//! What runs a pickle: the opcodes of plain data, on a stack of values.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{Id, MAX_VALUES, Node, PickleError};

/// Runs a pickle, and gives all values, the number of the one that it stands for, and the bytes that it has.
pub(super) fn run(bytes: &[u8]) -> Result<(Vec<Node<'_>>, Id, usize), PickleError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        opcode_at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        left: MAX_VALUES,
    };
    let root = machine.run()?;
    Ok((machine.nodes, root, machine.at))
}

/// The machine that a pickle is a program for.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the opcode that is run begins.
    opcode_at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// What may still be kept.
    left: usize,
}

type Step<T> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    /// Runs the whole program, and gives the value that it leaves.
    fn run(&mut self) -> Step<Id> {
        loop {
            self.opcode_at = self.at;
            let code = self.number::<1>()? as u8;
            match code {
                b'.' => return self.pop(),
                // PROTO, FRAME: a frame says how much may be read at once
                0x80 => {
                    if self.number::<1>()? > 5 {
                        return Err(self.malformed("a protocol above 5"));
                    }
                }
                0x95 => {
                    let length = self.number::<8>()?;
                    if length > (self.bytes.len() - self.at) as u64 {
                        return Err(PickleError::Cut(self.opcode_at));
                    }
                }
                b'(' => {
                    self.spend(1)?;
                    self.marks.push(self.stack.len());
                }
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'K' => {
                    let value = self.number::<1>()?;
                    self.push(Node::Int(value as i64))?;
                }
                b'M' => {
                    let value = self.number::<2>()?;
                    self.push(Node::Int(value as i64))?;
                }
                b'J' => {
                    let value = self.number::<4>()? as u32;
                    self.push(Node::Int(i64::from(value.cast_signed())))?;
                }
                b'G' => {
                    let value = self.number::<8>()?;
                    self.push(Node::Float(f64::from_bits(value.swap_bytes())))?;
                }
                b'I' | b'L' | b'F' => self.number_in_a_line(code)?,
                // LONG1, LONG4
                0x8a => {
                    let length = self.number::<1>()?;
                    self.long(length)?;
                }
                0x8b => {
                    let length = self.number::<4>()?;
                    self.long(length)?;
                }
                b'S' => {
                    let line = self.line()?;
                    let bytes = self.unquote(line)?;
                    self.push(Node::Bytes(Cow::Owned(bytes)))?;
                }
                b'V' => {
                    let line = self.line()?;
                    let text = self.unescape(line)?;
                    self.push(Node::Text(Cow::Owned(text)))?;
                }
                // SHORT_BINSTRING, SHORT_BINBYTES; BINSTRING, BINBYTES; BINBYTES8, BYTEARRAY8
                b'U' | b'C' => self.push_bytes::<1>()?,
                b'T' | b'B' => self.push_bytes::<4>()?,
                0x8e | 0x96 => self.push_bytes::<8>()?,
                // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
                0x8c => self.push_text::<1>()?,
                b'X' => self.push_text::<4>()?,
                0x8d => self.push_text::<8>()?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b']' => self.push(Node::List(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::List(items))?;
                }
                b'd' => {
                    let items = self.pop_to_mark()?;
                    let entries = self.pairs(&items)?;
                    self.push(Node::Dict(entries))?;
                }
                0x85..=0x87 => {
                    let count = usize::from(code - 0x84);
                    self.spend(count)?;
                    let mut items = vec![Id(0); count];
                    for item in items.iter_mut().rev() {
                        *item = self.pop()?;
                    }
                    self.push(Node::Tuple(items))?;
                }
                b'a' => {
                    self.spend(1)?;
                    let item = self.pop()?;
                    self.list()?.push(item);
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.list()?.extend(items);
                }
                b's' => {
                    self.spend(2)?;
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.entries(vec![(key, value)])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    let entries = self.pairs(&items)?;
                    self.entries(entries)?;
                }
                b'c' => {
                    for _ in 0..2 {
                        let line = self.line()?;
                        let text = std::str::from_utf8(line)
                            .map_err(|_| self.malformed("text that is not UTF-8"))?;
                        self.push(Node::Text(Cow::Borrowed(text)))?;
                    }
                    self.global()?;
                }
                0x93 => self.global()?,
                // REDUCE, NEWOBJ: a call of what is below the arguments
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let fits = matches!(self.node(function), Node::Global { .. })
                        && matches!(self.node(arguments), Node::Tuple(_));
                    if !fits {
                        return Err(self.malformed("a call of what is no function"));
                    }
                    self.push(Node::Call { function, arguments, state: None, entries: None })?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                b'b' => {
                    let error = self.malformed("a state for what takes none");
                    let value = self.pop()?;
                    let Node::Call { state, .. } = self.top()? else { return Err(error) };
                    *state = Some(value);
                }
                b'p' => {
                    let line = self.line()?;
                    let number = self.parse(line)?;
                    self.store(number)?;
                }
                b'q' => {
                    let number = self.number::<1>()?;
                    self.store(number)?;
                }
                b'r' => {
                    let number = self.number::<4>()?;
                    self.store(number)?;
                }
                0x94 => self.store(self.memo.len() as u64)?,
                b'g' => {
                    let line = self.line()?;
                    let number = self.parse(line)?;
                    self.fetch(number)?;
                }
                b'h' => {
                    let number = self.number::<1>()?;
                    self.fetch(number)?;
                }
                b'j' => {
                    let number = self.number::<4>()?;
                    self.fetch(number)?;
                }
                _ => return Err(PickleError::Opcode { code, at: self.opcode_at }),
            }
        }
    }

    fn malformed(&self, what: &'static str) -> PickleError {
        PickleError::Malformed { what, at: self.opcode_at }
    }

    /// Takes `count` out of what may be kept.
    fn spend(&mut self, count: usize) -> Step<()> {
        self.left = self.left.checked_sub(count).ok_or(PickleError::TooMany)?;
        Ok(())
    }

    fn take(&mut self, length: u64) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let taken = taken.ok_or(PickleError::Cut(self.opcode_at))?;
        self.at += taken.len();
        Ok(taken)
    }

    /// An unsigned number of `N` bytes, at most 8, the least first.
    fn number<const N: usize>(&mut self) -> Step<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N as u64)?);
        Ok(u64::from_le_bytes(wide))
    }

    /// What stands before the next line feed, which is passed over.
    fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleError::Cut(self.opcode_at))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn parse<T: std::str::FromStr>(&self, line: &[u8]) -> Step<T> {
        let text = std::str::from_utf8(line).ok().map(str::trim);
        text.and_then(|text| text.parse().ok()).ok_or(self.malformed("a number that is none"))
    }

    fn number_in_a_line(&mut self, code: u8) -> Step<()> {
        let line = self.line()?;
        let node = match (code, line) {
            (b'I', b"00") => Node::Bool(false),
            (b'I', b"01") => Node::Bool(true),
            (b'F', _) => Node::Float(self.parse(line)?),
            _ => Node::Int(self.parse(line.strip_suffix(b"L").unwrap_or(line))?),
        };
        self.push(node)
    }

    /// An integer of `length` bytes, the least first, in two's complement.
    fn long(&mut self, length: u64) -> Step<()> {
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return Err(self.malformed("an integer of more than 64 bits"));
        }
        let is_negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut wide = [if is_negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    /// The bytes of a string as Python 2 writes it, in quotes and with escapes.
    fn unquote(&self, line: &[u8]) -> Step<Vec<u8>> {
        let bad = || self.malformed("a string with wrong quotes or escapes");
        let inner = match line {
            [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
            _ => return Err(bad()),
        };
        let mut bytes = Vec::with_capacity(inner.len());
        let mut rest = inner.iter();
        while let Some(&byte) = rest.next() {
            if byte != b'\\' {
                bytes.push(byte);
                continue;
            }
            bytes.push(match rest.next().ok_or_else(bad)? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                &quoted @ (b'\\' | b'\'' | b'"') => quoted,
                b'x' => {
                    let mut digit = || rest.next().and_then(|&digit| char::from(digit).to_digit(16));
                    let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
                    (16 * high + low) as u8
                }
                _ => return Err(bad()),
            });
        }
        Ok(bytes)
    }

    /// Text of Latin-1 with `\uXXXX` and `\UXXXXXXXX` for other letters.
    fn unescape(&self, line: &[u8]) -> Step<String> {
        let mut text = String::with_capacity(line.len());
        let mut rest = line;
        while let Some((&byte, after)) = rest.split_first() {
            let digits = match (byte, after.first()) {
                (b'\\', Some(b'u')) => 4,
                (b'\\', Some(b'U')) => 8,
                _ => 0,
            };
            if digits == 0 {
                text.push(char::from(byte));
                rest = after;
                continue;
            }
            let letter = after.get(1..=digits).and_then(|code| std::str::from_utf8(code).ok());
            let letter = letter.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
            text.push(letter.ok_or(self.malformed("an escape that is no letter"))?);
            rest = &after[1 + digits..];
        }
        Ok(text)
    }

    fn push_bytes<const N: usize>(&mut self) -> Step<()> {
        let length = self.number::<N>()?;
        let bytes = self.take(length)?;
        self.push(Node::Bytes(Cow::Borrowed(bytes)))
    }

    fn push_text<const N: usize>(&mut self) -> Step<()> {
        let length = self.number::<N>()?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.malformed("text that is not UTF-8"))?;
        self.push(Node::Text(Cow::Borrowed(text)))
    }

    fn push(&mut self, node: Node<'a>) -> Step<()> {
        self.spend(1)?;
        // MAX_VALUES is less than u32::MAX
        self.stack.push(Id(self.nodes.len() as u32));
        self.nodes.push(node);
        Ok(())
    }

    /// Takes the value on top, which must lie above the last mark.
    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = if self.stack.len() > floor { self.stack.pop() } else { None };
        top.ok_or(self.malformed("an opcode that finds too little on the stack"))
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or(self.malformed("an opcode that finds no mark on the stack"))?;
        self.spend(self.stack.len() - mark)?;
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&self, items: &[Id]) -> Step<Vec<(Id, Id)>> {
        match items.as_chunks() {
            (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
            _ => Err(self.malformed("a key without a value")),
        }
    }

    fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// The value on top, which stays there.
    fn top(&mut self) -> Step<&mut Node<'a>> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(&mut self.nodes[top.0 as usize])
    }

    fn list(&mut self) -> Step<&mut Vec<Id>> {
        let error = self.malformed("an item for what is no list");
        match self.top()? {
            Node::List(items) => Ok(items),
            _ => Err(error),
        }
    }

    /// Sets entries of the dictionary on top, or of the object that a call there is to make.
    fn entries(&mut self, new: Vec<(Id, Id)>) -> Step<()> {
        let error = self.malformed("an entry for what is no dictionary");
        let next = Id(self.nodes.len() as u32);
        let of_call = match self.top()? {
            Node::Dict(entries) => {
                entries.extend(new);
                return Ok(());
            }
            Node::Call { entries, .. } => *entries.get_or_insert(next),
            _ => return Err(error),
        };
        if of_call == next {
            self.spend(1)?;
            self.nodes.push(Node::Dict(Vec::new()));
        }
        match &mut self.nodes[of_call.0 as usize] {
            Node::Dict(entries) => entries.extend(new),
            _ => return Err(error),
        }
        Ok(())
    }

    fn global(&mut self) -> Step<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        if !matches!((self.node(module), self.node(name)), (Node::Text(_), Node::Text(_))) {
            return Err(self.malformed("an import of what is no text"));
        }
        self.push(Node::Global { module, name })
    }

    fn store(&mut self, number: u64) -> Step<()> {
        self.spend(1)?;
        let top = self.pop()?;
        self.stack.push(top);
        self.memo.insert(number, top);
        Ok(())
    }

    fn fetch(&mut self, number: u64) -> Step<()> {
        self.spend(1)?;
        let value = self.memo.get(&number).copied();
        self.stack.push(value.ok_or(self.malformed("a reference to what was never stored"))?);
        Ok(())
    }
}
