//! What a family needs to turn an instruction into a closure.

use super::constants::Constants;
use super::modifiers::Modifiers;
use super::operands::{Address, AnyDest, AnySource, Base, Place};
use super::slots::{FileKind, Slots, file_of};
use super::{Execute, FrameCopy};
use crate::exec::lanes;
use crate::exec::registers::{Dest, Predicate, Source};
use crate::exec::value::{Value, Word};
use crate::ptx::ast::{
    AddressBase, Function, Instruction, LabelId, Module, Operand, RegId, Type, VariableRef,
};
use crate::sim::Arch;
use std::cell::RefCell;
use std::fmt;

/// An instruction, modifier or operand form that is not supported; the loader adds instruction,
/// line and kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported(String);

impl Unsupported {
    /// `what` is not supported, such as "modifier .foo".
    pub fn new(what: impl Into<String>) -> Unsupported {
        Unsupported(what.into())
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Constants of a program while it is decoded.
#[derive(Debug, Default)]
pub struct Pool {
    pub(super) words: RefCell<Constants<u32>>,
    pub(super) longs: RefCell<Constants<u64>>,
}

/// Addresses of variables, as the linker laid them out for one function of one kernel.
pub trait Symbols {
    /// Where a variable or parameter lies.
    fn place(&self, variable: VariableRef) -> Place;
    /// Index in the kernel's program of a function with a body, by its symbol.
    fn callee(&self, name: &str) -> Option<u32>;
    /// Offsets in the frame of a function of the program of its parameters and return values.
    fn callee_frame(&self, callee: u32) -> (&[u32], &[u32]);
    /// The declaration of a function of the program.
    fn callee_source(&self, callee: u32) -> &Function;
    /// Functions of the program but the kernel: index in the module and index in the program.
    fn callees(&self) -> Vec<(u32, u32)>;
    /// The number that stands for the address of a function.
    fn function_address(&self, name: &str) -> Option<u64>;
}

/// Context of an instruction's decoding: one a function.
pub struct Decoder<'a> {
    /// The module.
    pub module: &'a Module,
    /// The function.
    pub function: &'a Function,
    /// Slots of its registers.
    pub slots: &'a Slots,
    /// Addresses of its variables.
    pub symbols: &'a dyn Symbols,
    /// Index in the program of the function's first instruction.
    pub entry: u32,
    /// Constants met so far.
    pub pool: &'a Pool,
    /// The simulated architecture.
    pub arch: Arch,
    /// Key under which the instruction's family was found.
    pub key: &'static str,
    /// What the call that is being decoded copies back when a function returns, by function.
    pub results: RefCell<Vec<(u32, Vec<FrameCopy>)>>,
}

impl Decoder<'_> {
    /// Parts of the opcode after the key of the family.
    pub fn modifiers<'i>(&self, instruction: &'i Instruction) -> Modifiers<'i> {
        Modifiers::new(&instruction.opcode[self.key.len()..])
    }

    /// Operand number `index`.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn operand<'i>(
        &self,
        instruction: &'i Instruction,
        index: usize,
    ) -> Result<&'i Operand, Unsupported> {
        instruction
            .operands
            .get(index)
            .ok_or_else(|| Unsupported::new(format!("no operand {index}")))
    }

    /// Declared type of a register.
    pub fn register_type(&self, register: RegId) -> Type {
        self.function.registers[register.0 as usize].ty
    }

    /// Slot of a register.
    pub fn slot(&self, register: RegId) -> u32 {
        self.slots.of[register.0 as usize]
    }

    /// A constant of up to 32 bits.
    pub fn word(&self, value: u32) -> Source<u32> {
        Source::constant(self.pool.words.borrow_mut().intern(value))
    }

    /// A 64-bit constant.
    pub fn long(&self, value: u64) -> Source<u64> {
        Source::constant(self.pool.longs.borrow_mut().intern(value))
    }

    /// A source of up to 32 bits: a register of at most 32 bits or an immediate.
    ///
    /// # Errors
    /// For any other operand.
    pub fn source32(&self, operand: &Operand) -> Result<Source<u32>, Unsupported> {
        match operand {
            Operand::Register(r) if file_of(self.register_type(*r)) == FileKind::Word => {
                Ok(Source::slot(self.slot(*r)))
            }
            Operand::Int(value) => Ok(self.word(*value as u32)),
            Operand::F32(bits) => Ok(self.word(*bits)),
            Operand::F64(bits) => Ok(self.word((f64::from_bits(*bits) as f32).to_bits())),
            other => Err(unfit(other, "a source of up to 32 bits")),
        }
    }

    /// A 64-bit source: a 64-bit register or an immediate.
    ///
    /// # Errors
    /// For any other operand.
    pub fn source64(&self, operand: &Operand) -> Result<Source<u64>, Unsupported> {
        match operand {
            Operand::Register(r) if file_of(self.register_type(*r)) == FileKind::Long => {
                Ok(Source::slot(self.slot(*r)))
            }
            Operand::Int(value) => Ok(self.long(*value as u64)),
            Operand::F64(bits) => Ok(self.long(*bits)),
            other => Err(unfit(other, "a 64-bit source")),
        }
    }

    /// A source of the width of `W`.
    ///
    /// # Errors
    /// For an operand of another width.
    pub fn source<W: Word>(&self, operand: &Operand) -> Result<Source<W>, Unsupported> {
        W::source(self, operand)
    }

    /// A destination of the width of `W`.
    ///
    /// # Errors
    /// For an operand of another width.
    pub fn dest<W: Word>(&self, operand: &Operand) -> Result<Dest<W>, Unsupported> {
        match operand {
            Operand::Register(r) if file_of(self.register_type(*r)) == W::FILE => {
                Ok(Dest::slot(self.slot(*r)))
            }
            other => Err(unfit(other, "a destination of the instruction's width")),
        }
    }

    /// A source in the register's own width; immediates get that of `ty`.
    ///
    /// # Errors
    /// For an operand that is no register or immediate.
    pub fn any_source(&self, operand: &Operand, ty: Type) -> Result<AnySource, Unsupported> {
        let long = match operand {
            Operand::Register(r) => file_of(self.register_type(*r)) == FileKind::Long,
            _ => ty.size() == 8,
        };
        Ok(match long {
            true => AnySource::Long(self.source64(operand)?),
            false => AnySource::Word(self.source32(operand)?),
        })
    }

    /// A destination in the register's own width.
    ///
    /// # Errors
    /// For an operand that is no register of up to 64 bits and not `_`.
    pub fn any_dest(&self, operand: &Operand) -> Result<AnyDest, Unsupported> {
        match operand {
            Operand::Discard => Ok(AnyDest::Discard),
            Operand::Register(r) => match file_of(self.register_type(*r)) {
                FileKind::Word => Ok(AnyDest::Word(
                    Dest::slot(self.slot(*r)),
                    self.register_type(*r).size() * 8,
                )),
                FileKind::Long => Ok(AnyDest::Long(Dest::slot(self.slot(*r)))),
                _ => Err(unfit(operand, "a destination")),
            },
            other => Err(unfit(other, "a destination")),
        }
    }

    /// The two halves of a 128-bit register, the low one first.
    ///
    /// # Errors
    /// For any other operand.
    pub fn long_pair(&self, operand: &Operand) -> Result<[Dest<u64>; 2], Unsupported> {
        match operand {
            Operand::Register(r) if file_of(self.register_type(*r)) == FileKind::LongPair => {
                Ok([Dest::slot(self.slot(*r)), Dest::slot(self.slot(*r) + 1)])
            }
            other => Err(unfit(other, "a 128-bit register")),
        }
    }

    /// A predicate source: `p`, `!p`, 0 or 1.
    ///
    /// # Errors
    /// For any other operand.
    pub fn predicate(&self, operand: &Operand) -> Result<Predicate, Unsupported> {
        match operand {
            Operand::Register(r) if self.register_type(*r) == Type::Pred => {
                Ok(Predicate::slot(self.slot(*r), false))
            }
            Operand::NotRegister(r) if self.register_type(*r) == Type::Pred => {
                Ok(Predicate::slot(self.slot(*r), true))
            }
            Operand::Int(0) => Ok(Predicate::FALSE),
            Operand::Int(_) => Ok(Predicate::TRUE),
            other => Err(unfit(other, "a predicate")),
        }
    }

    /// Slot of a predicate destination, `None` for `_`.
    ///
    /// # Errors
    /// For any other operand.
    pub fn predicate_dest(&self, operand: &Operand) -> Result<Option<u32>, Unsupported> {
        match operand {
            Operand::Discard => Ok(None),
            Operand::Register(r) if self.register_type(*r) == Type::Pred => Ok(Some(self.slot(*r))),
            other => Err(unfit(other, "a predicate")),
        }
    }

    /// The elements of `{a, b}`, or the operand itself.
    pub fn elements<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(elements) => elements,
            single => std::slice::from_ref(single),
        }
    }

    /// An address operand.
    ///
    /// # Errors
    /// For any other operand.
    pub fn address(&self, operand: &Operand) -> Result<Address, Unsupported> {
        let Operand::Address { base, offset } = operand else {
            return Err(unfit(operand, "an address"));
        };
        let base = match base {
            AddressBase::Register(r) => match file_of(self.register_type(*r)) {
                FileKind::Word => Base::Word(Source::slot(self.slot(*r))),
                FileKind::Long => Base::Long(Source::slot(self.slot(*r))),
                _ => return Err(unfit(operand, "an address")),
            },
            AddressBase::Variable(v) => Base::Fixed(self.symbols.place(*v)),
            AddressBase::Absolute => Base::Fixed(Place::Global(0)),
        };
        Ok(Address {
            base,
            offset: *offset,
        })
    }

    /// Index in the program of the instruction that a label points at.
    pub fn target(&self, label: LabelId) -> u32 {
        self.entry + self.function.labels[label.0 as usize].target as u32
    }

    /// Operand 0 as a destination.
    fn result<W: Word>(&self, i: &Instruction) -> Result<Dest<W>, Unsupported> {
        self.dest(self.operand(i, 0)?)
    }

    /// Operand `index` as a source.
    fn argument<W: Word>(&self, i: &Instruction, index: usize) -> Result<Source<W>, Unsupported> {
        self.source(self.operand(i, index)?)
    }

    /// An instruction `op d, a` that applies `f`.
    ///
    /// # Errors
    /// When an operand does not fit its type.
    pub fn map1<A: Value, R: Value>(
        &self,
        i: &Instruction,
        f: impl Fn(A) -> R + Send + Sync + 'static,
    ) -> Result<Execute, Unsupported> {
        let d = self.result::<R::Word>(i)?;
        let a = self.argument::<A::Word>(i, 1)?;
        Ok(lanes::map1::<A, R>(d, a, f))
    }

    /// An instruction `op d, a, b` that applies `f`.
    ///
    /// # Errors
    /// When an operand does not fit its type.
    pub fn map2<A: Value, B: Value, R: Value>(
        &self,
        i: &Instruction,
        f: impl Fn(A, B) -> R + Send + Sync + 'static,
    ) -> Result<Execute, Unsupported> {
        let d = self.result::<R::Word>(i)?;
        let a = self.argument::<A::Word>(i, 1)?;
        let b = self.argument::<B::Word>(i, 2)?;
        Ok(lanes::map2::<A, B, R>(d, a, b, f))
    }

    /// An instruction `op d, a, b, c` that applies `f`.
    ///
    /// # Errors
    /// When an operand does not fit its type.
    pub fn map3<A: Value, B: Value, C: Value, R: Value>(
        &self,
        i: &Instruction,
        f: impl Fn(A, B, C) -> R + Send + Sync + 'static,
    ) -> Result<Execute, Unsupported> {
        let d = self.result::<R::Word>(i)?;
        let a = self.argument::<A::Word>(i, 1)?;
        let b = self.argument::<B::Word>(i, 2)?;
        let c = self.argument::<C::Word>(i, 3)?;
        Ok(lanes::map3::<A, B, C, R>(d, a, b, c, f))
    }

    /// An instruction `op d, a, b, c, e` that applies `f`.
    ///
    /// # Errors
    /// When an operand does not fit its type.
    pub fn map4<A: Value, B: Value, C: Value, D: Value, R: Value>(
        &self,
        i: &Instruction,
        f: impl Fn(A, B, C, D) -> R + Send + Sync + 'static,
    ) -> Result<Execute, Unsupported> {
        let d = self.result::<R::Word>(i)?;
        let a = self.argument::<A::Word>(i, 1)?;
        let b = self.argument::<B::Word>(i, 2)?;
        let c = self.argument::<C::Word>(i, 3)?;
        let e = self.argument::<D::Word>(i, 4)?;
        Ok(lanes::map4::<A, B, C, D, R>(d, a, b, c, e, f))
    }
}

/// `operand` is not `wanted`.
pub fn unfit(operand: &Operand, wanted: &str) -> Unsupported {
    Unsupported(format!("operand {operand:?} where {wanted} is expected"))
}
