//! Module scope: directives, variables, functions and their headers.

use super::ParseError;
use super::ast::{Directives, Function, Module, Operand, Space, Variable, VariableRef};
use super::function::{self, location, skip_pragma};
use super::instruction::ModuleSymbol;
use super::lexer::{Lexer, Token, describe};
use super::variable::VariablePrefix;
use std::collections::HashMap;

/// Newest PTX ISA that is understood.
const NEWEST: (u32, u32) = (9, 0);

/// Parses a translation unit.
pub struct ModuleParser<'a> {
    lexer: Lexer<'a>,
    module: Module,
    symbols: HashMap<&'a str, ModuleSymbol>,
    /// `.alias name, function`.
    aliases: HashMap<&'a str, &'a str>,
}

impl<'a> ModuleParser<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a str) -> Result<Self, ParseError> {
        Ok(ModuleParser {
            lexer: Lexer::new(text)?,
            module: Module::default(),
            symbols: HashMap::new(),
            aliases: HashMap::new(),
        })
    }

    /// Parses the whole text.
    pub fn parse(mut self) -> Result<Module, ParseError> {
        self.header()?;
        while self.lexer.peek() != Token::End {
            self.directive()?;
        }
        self.resolve_aliases();
        Ok(self.module)
    }

    /// `.version`, which comes first.
    fn header(&mut self) -> Result<(), ParseError> {
        if self.lexer.next()? != Token::Dot(".version") {
            return self.lexer.error("the text does not begin with `.version`");
        }
        let Token::F64(bits) = self.lexer.next()? else {
            return self.lexer.error("expected a version such as `8.0`");
        };
        let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
        self.module.version = (tenths / 10, tenths % 10);
        if self.module.version > NEWEST {
            let (major, minor) = self.module.version;
            let (newest, newest_minor) = NEWEST;
            return self.lexer.error(format!(
                "PTX ISA {major}.{minor} is newer than {newest}.{newest_minor}, the newest that is supported"
            ));
        }
        Ok(())
    }

    fn directive(&mut self) -> Result<(), ParseError> {
        let Token::Dot(directive) = self.lexer.peek() else {
            return self.lexer.error(format!(
                "expected a directive, found {}",
                describe(self.lexer.peek())
            ));
        };
        match directive {
            ".target" => self.target(),
            ".address_size" => self.address_size(),
            ".file" => self.file(),
            ".loc" => {
                self.lexer.next()?;
                location(&mut self.lexer).map(drop)
            }
            ".section" => self.section(),
            ".pragma" => {
                self.lexer.next()?;
                skip_pragma(&mut self.lexer)
            }
            ".alias" => self.alias(),
            _ => self.linked(),
        }
    }

    fn target(&mut self) -> Result<(), ParseError> {
        self.lexer.next()?;
        self.module.target = self.lexer.expect_name()?.to_owned();
        while self.lexer.accept(",")? {
            match self.lexer.expect_name()? {
                "debug" | "texmode_unified" | "texmode_independent" => {}
                other => {
                    return self
                        .lexer
                        .error(format!("target option `{other}` is not supported"));
                }
            }
        }
        Ok(())
    }

    fn address_size(&mut self) -> Result<(), ParseError> {
        self.lexer.next()?;
        match self.lexer.expect_u32()? {
            64 => Ok(()),
            other => self
                .lexer
                .error(format!("addresses of {other} bits are not supported")),
        }
    }

    /// `.file number "name" [, time, size]`.
    fn file(&mut self) -> Result<(), ParseError> {
        self.lexer.next()?;
        let number = self.lexer.expect_u32()?;
        let Token::Str(name) = self.lexer.next()? else {
            return self.lexer.error("expected the name of a file");
        };
        self.module.files.push((number, name.to_owned()));
        while self.lexer.accept(",")? {
            self.lexer.next()?;
        }
        Ok(())
    }

    /// Debug sections have no meaning here.
    fn section(&mut self) -> Result<(), ParseError> {
        self.lexer.next()?;
        self.lexer.next()?;
        self.lexer.expect("{")?;
        let mut depth = 1u32;
        while depth > 0 {
            match self.lexer.next()? {
                Token::Punct("{") => depth += 1,
                Token::Punct("}") => depth -= 1,
                Token::End => return self.lexer.error("expected `}`, found the end of the text"),
                _ => {}
            }
        }
        Ok(())
    }

    fn alias(&mut self) -> Result<(), ParseError> {
        self.lexer.next()?;
        let name = self.lexer.expect_name()?;
        self.lexer.expect(",")?;
        let function = self.lexer.expect_name()?;
        for known in [name, function] {
            if !matches!(self.symbols.get(known), Some(ModuleSymbol::Function(_))) {
                return self.lexer.error(format!(
                    "`.alias` needs declared functions; `{known}` is none"
                ));
            }
        }
        self.aliases.insert(name, function);
        self.lexer.expect(";")
    }

    /// A variable or function with its linking directives.
    fn linked(&mut self) -> Result<(), ParseError> {
        let mut external = false;
        loop {
            let line = self.lexer.line();
            match self.lexer.next()? {
                Token::Dot(".extern") => external = true,
                Token::Dot(".visible" | ".weak" | ".common") => {}
                Token::Dot(".global") => return self.variables(Space::Global, external),
                Token::Dot(".const") => return self.variables(Space::Const, external),
                Token::Dot(".shared") => return self.variables(Space::Shared, external),
                Token::Dot(".entry") => return self.function(true),
                Token::Dot(".func") => return self.function(false),
                other => {
                    let message = format!("{} is not supported at module scope", describe(other));
                    return Err(ParseError { line, message });
                }
            }
        }
    }

    fn variables(&mut self, space: Space, external: bool) -> Result<(), ParseError> {
        if space == Space::Const && self.lexer.accept("[")? {
            return self
                .lexer
                .error("numbered constant banks are not supported");
        }
        let prefix = VariablePrefix::parse(&mut self.lexer, space)?;
        loop {
            let (name, mut variable) = prefix.declarator(&mut self.lexer)?;
            variable.external = external;
            self.add_variable(name, variable)?;
            if !self.lexer.accept(",")? {
                return self.lexer.expect(";");
            }
        }
    }

    /// Adds a variable; a definition takes the place of an earlier `.extern` declaration.
    fn add_variable(&mut self, name: &'a str, variable: Variable) -> Result<(), ParseError> {
        match self.symbols.get(name) {
            None => {
                let index = self.module.variables.len() as u32;
                self.module.variables.push(variable);
                self.symbols.insert(name, ModuleSymbol::Variable(index));
            }
            Some(&ModuleSymbol::Variable(index))
                if variable.external || self.module.variables[index as usize].external =>
            {
                if !variable.external {
                    self.module.variables[index as usize] = variable;
                }
            }
            Some(_) => return self.lexer.error(format!("`{name}` is declared twice")),
        }
        Ok(())
    }

    fn function(&mut self, is_entry: bool) -> Result<(), ParseError> {
        let mut function = Function {
            is_entry,
            ..Function::default()
        };
        let mut params = Vec::new();
        if matches!(self.lexer.peek(), Token::Punct("(")) {
            function.returns = self.parameters(&mut params, VariableRef::Return)?;
        }
        // `.noreturn` may stand here too.
        self.directives()?;
        let name = self.lexer.expect_name()?;
        function.name = name.to_owned();
        if matches!(self.lexer.peek(), Token::Punct("(")) {
            function.params = self.parameters(&mut params, VariableRef::Param)?;
        }
        function.directives = self.directives()?;
        let index = self.declare_function(name)?;
        if matches!(self.lexer.peek(), Token::Punct("{")) {
            function.has_body = true;
            function::body(&mut self.lexer, &self.symbols, &params, &mut function)?;
        } else {
            self.lexer.expect(";")?;
        }
        let slot = &mut self.module.functions[index];
        if slot.has_body && function.has_body {
            return self.lexer.error(format!("`{name}` is defined twice"));
        }
        if !slot.has_body {
            *slot = function;
        }
        Ok(())
    }

    /// Index of the function, which its own body may call.
    fn declare_function(&mut self, name: &'a str) -> Result<usize, ParseError> {
        match self.symbols.get(name) {
            Some(&ModuleSymbol::Function(index)) => Ok(index as usize),
            Some(ModuleSymbol::Variable(_)) => {
                self.lexer.error(format!("`{name}` is declared twice"))
            }
            None => {
                let index = self.module.functions.len();
                self.module.functions.push(Function {
                    name: name.to_owned(),
                    ..Function::default()
                });
                self.symbols
                    .insert(name, ModuleSymbol::Function(index as u32));
                Ok(index)
            }
        }
    }

    /// `(.param .b32 a, .param .align 8 .b8 b[16])`.
    fn parameters(
        &mut self,
        names: &mut Vec<(&'a str, VariableRef)>,
        reference: fn(u32) -> VariableRef,
    ) -> Result<Vec<Variable>, ParseError> {
        self.lexer.expect("(")?;
        let mut variables: Vec<Variable> = Vec::new();
        while !self.lexer.accept(")")? {
            match self.lexer.next()? {
                Token::Dot(".param") => {}
                Token::Dot(".reg") => {
                    return self.lexer.error("register parameters are not supported");
                }
                other => {
                    return self
                        .lexer
                        .error(format!("expected `.param`, found {}", describe(other)));
                }
            }
            let prefix = VariablePrefix::parse(&mut self.lexer, Space::Param)?;
            let (name, variable) = prefix.declarator(&mut self.lexer)?;
            // Prototypes may leave parameters without names.
            if name != "_" {
                names.push((name, reference(variables.len() as u32)));
            }
            variables.push(variable);
            if !self.lexer.accept(",")? {
                self.lexer.expect(")")?;
                break;
            }
        }
        Ok(variables)
    }

    /// What stands between the parameters and the body.
    fn directives(&mut self) -> Result<Directives, ParseError> {
        let mut directives = Directives::default();
        while let Token::Dot(directive) = self.lexer.peek() {
            self.lexer.next()?;
            match directive {
                ".maxntid" => directives.max_threads = Some(self.extents()?),
                ".reqntid" => directives.required_threads = Some(self.extents()?),
                ".reqnctapercluster" => directives.cluster = Some(self.extents()?),
                ".minnctapersm" => directives.min_blocks = Some(self.lexer.expect_u32()?),
                ".maxnreg" => directives.max_registers = Some(self.lexer.expect_u32()?),
                ".explicitcluster" => directives.explicit_cluster = true,
                ".maxnctapersm" | ".maxclusterrank" | ".abi_preserve" | ".abi_preserve_control" => {
                    self.lexer.expect_u32()?;
                }
                ".pragma" => skip_pragma(&mut self.lexer)?,
                ".noreturn" => {}
                other => {
                    return self
                        .lexer
                        .error(format!("`{other}` of a function is not supported"));
                }
            }
        }
        Ok(directives)
    }

    /// `x`, `x, y` or `x, y, z`; missing ones are 1.
    fn extents(&mut self) -> Result<[u32; 3], ParseError> {
        let mut extents = [1; 3];
        for (axis, extent) in extents.iter_mut().enumerate() {
            if axis > 0 && !self.lexer.accept(",")? {
                break;
            }
            *extent = self.lexer.expect_u32()?;
        }
        Ok(extents)
    }

    /// Replaces aliases of functions by what they stand for.
    fn resolve_aliases(&mut self) {
        let aliases = &self.aliases;
        if aliases.is_empty() {
            return;
        }
        for function in &mut self.module.functions {
            for instruction in &mut function.body {
                for operand in &mut instruction.operands {
                    if let Operand::Function(name) = operand
                        && let Some(target) = aliases.get(name.as_str())
                    {
                        *name = (*target).to_owned();
                    }
                }
            }
        }
        for variable in &mut self.module.variables {
            for init in &mut variable.init_symbols {
                if let Some(target) = aliases.get(init.symbol.as_str()) {
                    init.symbol = (*target).to_owned();
                }
            }
        }
    }
}
