//! Linking: addresses of a module's variables and functions, and their initial values.

use crate::memory::Memory;
use crate::ptx::ast::{Module, Space, SymbolInit, Variable};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Function pointers start here; they are neither data nor in any allocation.
const FUNCTION_WINDOW: u64 = 0x83_0000_0000;
/// Bytes between function pointers. Above 1, so that an odd pointer is no function.
const FUNCTION_STRIDE: u64 = 16;
/// Alignment of every allocation; no variable may ask for more.
const MAX_ALIGN: u32 = 256;

/// Why a module cannot be linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkError {
    /// A variable or function that is declared `.extern` and not defined, or not declared.
    Unresolved(String),
    /// The variable does not fit into what is left of the device's memory.
    OutOfMemory {
        /// Its name.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// An alignment or initial value without meaning here.
    Unsupported(String),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Unresolved(name) => write!(f, "`{name}` is declared but not defined"),
            LinkError::OutOfMemory { name, bytes } => {
                write!(
                    f,
                    "variable `{name}`: no device memory for its {bytes} bytes"
                )
            }
            LinkError::Unsupported(rule) => f.write_str(rule),
        }
    }
}

impl std::error::Error for LinkError {}

/// The function pointer of [`Module::functions`]`[index]`.
pub fn function_address(index: u32) -> u64 {
    FUNCTION_WINDOW + u64::from(index) * FUNCTION_STRIDE
}

/// The index of the function that a pointer means. It may be past the last function.
pub fn function_at(address: u64) -> Option<u32> {
    let offset = address.checked_sub(FUNCTION_WINDOW)?;
    if !offset.is_multiple_of(FUNCTION_STRIDE) {
        return None;
    }
    u32::try_from(offset / FUNCTION_STRIDE).ok()
}

/// The `.global` and `.const` variables of a module in device memory. They are freed with it.
#[derive(Debug)]
pub struct Globals {
    memory: Arc<Memory>,
    /// By variable; `None` for `.shared` ones.
    addresses: Vec<Option<u64>>,
    /// Address and size by name.
    names: HashMap<String, (u64, u64)>,
}

impl Globals {
    /// Allocates and initialises all variables. Bytes without an initial value are zero.
    ///
    /// # Errors
    ///
    /// An undefined symbol, a variable that does not fit, an alignment above 256 bytes.
    pub fn allocate(module: &Module, memory: Arc<Memory>) -> Result<Globals, LinkError> {
        let mut globals = Globals {
            memory,
            addresses: Vec::new(),
            names: HashMap::new(),
        };
        for variable in &module.variables {
            let address = match variable.space {
                Space::Global | Space::Const => Some(globals.place(variable)?),
                Space::Shared | Space::Local | Space::Param => None,
            };
            globals.addresses.push(address);
        }
        let functions: HashMap<&str, u32> = module
            .functions
            .iter()
            .zip(0..)
            .map(|(function, index)| (function.name.as_str(), index))
            .collect();
        for (index, variable) in module.variables.iter().enumerate() {
            for init in &variable.init_symbols {
                globals.write_symbol(index, init, &functions)?;
            }
        }
        Ok(globals)
    }

    /// Address of [`Module::variables`]`[index]`; `None` for a `.shared` one.
    pub fn address(&self, index: u32) -> Option<u64> {
        self.addresses.get(index as usize).copied().flatten()
    }

    /// Address and size of a variable.
    pub fn find(&self, name: &str) -> Option<(u64, u64)> {
        self.names.get(name).copied()
    }

    fn place(&mut self, variable: &Variable) -> Result<u64, LinkError> {
        let name = &variable.name;
        if variable.external {
            return Err(LinkError::Unresolved(name.clone()));
        }
        if variable.align > MAX_ALIGN {
            let align = variable.align;
            return Err(LinkError::Unsupported(format!(
                "variable `{name}`: alignment {align} is above {MAX_ALIGN}"
            )));
        }
        let address = self
            .memory
            .register_module_memory(name, variable.size, &variable.init);
        let Some(address) = address else {
            return Err(LinkError::OutOfMemory {
                name: name.clone(),
                bytes: variable.size,
            });
        };
        self.names.insert(name.clone(), (address, variable.size));
        Ok(address)
    }

    fn write_symbol(
        &self,
        variable: usize,
        init: &SymbolInit,
        functions: &HashMap<&str, u32>,
    ) -> Result<(), LinkError> {
        let symbol = init.symbol.as_str();
        let target = match (self.names.get(symbol), functions.get(symbol)) {
            (Some(&(address, _)), _) => address,
            (None, Some(&index)) => function_address(index),
            (None, None) => return Err(LinkError::Unresolved(symbol.to_owned())),
        };
        let value = target.wrapping_add_signed(init.addend) >> init.shift;
        let bytes = &value.to_le_bytes()[..init.size as usize];
        let unsupported = || {
            LinkError::Unsupported(format!(
                "the initial value `{symbol}` lies outside of its variable"
            ))
        };
        let base = self.addresses[variable].ok_or_else(unsupported)?;
        self.memory
            .copy_in(base + init.offset, bytes)
            .map_err(|_| unsupported())
    }
}

impl Drop for Globals {
    fn drop(&mut self) {
        for &address in self.addresses.iter().flatten() {
            // It can only fail where the program has freed the variable itself.
            let _ = self.memory.free(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

    fn link(text: &str) -> Result<(Arc<Memory>, Globals), LinkError> {
        let memory = Arc::new(Memory::new(1 << 20));
        let module = crate::ptx::parse(&format!("{HEADER}{text}")).unwrap();
        let globals = Globals::allocate(&module, memory.clone())?;
        Ok((memory, globals))
    }

    fn bytes(memory: &Memory, (address, size): (u64, u64)) -> Vec<u8> {
        let mut out = vec![0; size as usize];
        memory.copy_out(address, &mut out).unwrap();
        out
    }

    #[test]
    fn values_symbols_and_zeros() {
        let (memory, globals) = link(
            ".func f() { ret; }
             .global .u64 first[2] = {generic(second)+8, f};
             .global .align 8 .b8 second[12] = {1, 2};
             .const .f32 third[2] = {1.5, 0fBF800000};
             .global .u8 bytes[3] = {7, 0xFF(generic(second)), 0xFF0000000000(second)};",
        )
        .unwrap();
        let second = globals.find("second").unwrap();
        let first = bytes(&memory, globals.find("first").unwrap());
        assert_eq!(first[..8], (second.0 + 8).to_le_bytes());
        assert_eq!(first[8..], function_address(0).to_le_bytes());
        assert_eq!(bytes(&memory, second), [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let third = bytes(&memory, globals.find("third").unwrap());
        assert_eq!(
            third,
            [1.5f32.to_le_bytes(), (-1f32).to_le_bytes()].concat()
        );
        let packed = bytes(&memory, globals.find("bytes").unwrap());
        assert_eq!(packed, [7, second.0 as u8, (second.0 >> 40) as u8]);
        assert_eq!(memory.in_use(), 16 + 12 + 8 + 3);
        drop(globals);
        assert_eq!(memory.in_use(), 0);
    }

    #[test]
    fn what_cannot_be_linked() {
        let error = |text| link(text).unwrap_err();
        assert_eq!(
            error(".extern .global .u32 x;"),
            LinkError::Unresolved("x".into())
        );
        assert_eq!(
            error(".global .u64 x = y;"),
            LinkError::Unresolved("y".into())
        );
        assert_eq!(
            error(".global .b8 x[2097152];"),
            LinkError::OutOfMemory {
                name: "x".into(),
                bytes: 2 << 20
            }
        );
        assert!(matches!(
            error(".global .align 512 .u32 x;"),
            LinkError::Unsupported(_)
        ));
    }

    #[test]
    fn function_pointers_round_trip() {
        assert_eq!(function_at(function_address(7)), Some(7));
        assert_eq!(function_at(function_address(7) + 1), None);
        assert_eq!(function_at(0), None);
    }
}
