//! The syntax tree of a PTX module.
//!
//! Scopes are gone: every register, variable and label of a function has an index of its own,
//! however often an inline-assembly block repeats its name.

/// A translation unit.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version major.minor`.
    pub version: (u32, u32),
    /// `.target`, such as `sm_90a`.
    pub target: String,
    /// `.file` names by their number.
    pub files: Vec<(u32, String)>,
    /// Module-scope `.global`, `.const` and `.shared` variables.
    pub variables: Vec<Variable>,
    /// Entries and functions, declarations without a body included.
    pub functions: Vec<Function>,
}

/// A kernel or a device function.
#[derive(Debug, Clone, Default)]
pub struct Function {
    /// Symbol.
    pub name: String,
    /// `.entry` rather than `.func`.
    pub is_entry: bool,
    /// False for a prototype.
    pub has_body: bool,
    /// Parameters in order.
    pub params: Vec<Variable>,
    /// Return parameters of a `.func`.
    pub returns: Vec<Variable>,
    /// Launch bounds and cluster directives.
    pub directives: Directives,
    /// All registers of all scopes.
    pub registers: Vec<Register>,
    /// `.local`, `.shared` and `.param` variables of all scopes.
    pub variables: Vec<Variable>,
    /// Instructions in order.
    pub body: Vec<Instruction>,
    /// Instruction index of each label; the length of the body for one at its end.
    pub labels: Vec<Label>,
    /// `.branchtargets` lists, for `brx.idx`.
    pub branch_tables: Vec<Vec<LabelId>>,
}

/// Performance directives of an entry; absent ones are `None` or false.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// `.maxntid`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// `.explicitcluster`.
    pub explicit_cluster: bool,
}

/// Fundamental types; `.f16x2` and its like are 32-bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    F32,
    F64,
}

/// A virtual register.
#[derive(Debug, Clone)]
pub struct Register {
    /// Name as written.
    pub name: String,
    /// Declared type.
    pub ty: Type,
}

/// State spaces of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable or parameter in memory.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Name as written.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes.
    pub align: u32,
    /// Size in bytes; 0 for `.extern .shared x[]`.
    pub size: u64,
    /// `.extern`.
    pub external: bool,
    /// Initial bytes, shorter than `size` where the rest is zero.
    pub init: Vec<u8>,
    /// Addresses to be written into the initial bytes.
    pub init_symbols: Vec<SymbolInit>,
}

/// An address, or a byte of one, in the initial value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolInit {
    /// Where in the variable, in bytes.
    pub offset: u64,
    /// Bytes written.
    pub size: u32,
    /// Variable or function.
    pub symbol: String,
    /// Added to its address.
    pub addend: i64,
    /// `generic()`: the address in the generic space.
    pub generic: bool,
    /// The address is shifted right by this before its low `size` bytes are taken.
    pub shift: u32,
}

/// Where a label points.
#[derive(Debug, Clone)]
pub struct Label {
    /// Name as written.
    pub name: String,
    /// Index of the instruction that follows it.
    pub target: usize,
}

/// Index into [`Function::registers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);

/// Index into [`Function::labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelId(pub u32);

/// What a name that stands for an address refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VariableRef {
    /// [`Module::variables`].
    Module(u32),
    /// [`Function::variables`].
    Function(u32),
    /// [`Function::params`].
    Param(u32),
    /// [`Function::returns`].
    Return(u32),
}

/// One instruction. `opcode` is kept whole, such as `ld.global.nc.v4.f32`.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// `@p` or `@!p`.
    pub guard: Option<Guard>,
    /// Opcode with all its modifiers.
    pub opcode: String,
    /// Operands in the order written.
    pub operands: Vec<Operand>,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// CUDA source position by the latest `.loc`: file number, line, column.
    pub source: Option<(u32, u32, u32)>,
}

/// A guard predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub register: RegId,
    /// `@!p`.
    pub negated: bool,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register.
    Register(RegId),
    /// `!p`.
    NotRegister(RegId),
    /// A special register, such as `%tid.x`.
    Special(String),
    /// An integer, sign-extended or as its 64 bits.
    Int(i64),
    /// `0f3F800000`, as bits.
    F32(u32),
    /// `0d3FF0000000000000` or a decimal literal, as bits.
    F64(u64),
    /// `[base+offset]`.
    Address {
        /// What the offset is added to.
        base: AddressBase,
        /// In bytes.
        offset: i64,
    },
    /// `[map, {c0, c1}]` and `[map, {c0, c1}, ..]`: an address followed by further operands.
    AddressList(Box<Operand>, Vec<Operand>),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// A branch target.
    Label(LabelId),
    /// The name of a variable, standing for its address, plus an offset.
    Variable(VariableRef, i64),
    /// The name of a function.
    Function(String),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// A `.branchtargets` list.
    BranchTable(u32),
    /// A `.callprototype` or `.calltargets` of an indirect call; execution does not need it.
    Prototype,
    /// `_`.
    Discard,
}

/// Base of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressBase {
    /// A register.
    Register(RegId),
    /// A variable.
    Variable(VariableRef),
    /// An absolute address.
    Absolute,
}

impl Type {
    /// Size in bytes; a predicate counts as one.
    pub fn size(self) -> u32 {
        match self {
            Type::Pred | Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::BF16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::BF16x2 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }
}
