//! Shader modules: their WGSL and what the host supplies to them.

use std::hash::{Hash, Hasher};

/// One shader module.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// Its name.
    pub name: &'static str,
    /// Its WGSL, in pieces: those that modules share and those of its own files. They are concatenated when the module is compiled. The
    /// compiler keeps equal lists once.
    pub sources: [&'static [&'static str]; 2],
    /// The functions that its WGSL calls and that its kernels choose.
    pub chosen: Chosen,
    /// The parameters of its kernels: binding 0.
    pub params: Struct,
    /// Other structs that the host writes.
    pub structs: &'static [Struct],
    /// Its storage buffers.
    pub storage: &'static [Binding],
    /// Its override constants.
    pub overrides: &'static [&'static str],
    /// Whether it uses subgroup operations.
    pub subgroups: bool,
    /// Whether it uses cooperative matrices.
    pub coopmat: bool,
    /// The features along K of int8 factors, which replace the floats of its cooperative matrices in SPIR-V; 0 where they stay floats.
    pub int8_k: u32,
}

impl Shader {
    /// A module without override constants that needs no feature.
    pub(crate) const fn new(
        name: &'static str,
        params: Struct,
        structs: &'static [Struct],
        storage: &'static [Binding],
        sources: [&'static [&'static str]; 2],
    ) -> Self {
        let chosen = [Piece::NONE; 4];
        Self {
            name,
            sources,
            chosen,
            params,
            structs,
            storage,
            overrides: &[],
            subgroups: false,
            coopmat: false,
            int8_k: 0,
        }
    }

    /// Concatenates the pieces of its WGSL, and the number of rows, which every module has.
    #[must_use]
    pub fn wgsl(&self) -> String {
        let [shared, own] = self.sources;
        [shared, own, &self.chosen.map(|piece| piece.wgsl), &[ROWS]].concat().join("\n")
    }

    /// Returns the resources, all in group 0.
    #[must_use]
    pub fn bindings(&self) -> Vec<Binding> {
        let uniform =
            |name, binding, size, dynamic| Binding { name, binding, kind: BindingKind::Uniform { size, dynamic } };
        let digit = size_of::<Digit>();
        let mut bindings = vec![uniform("params", 0, self.params.size, false)];
        bindings.extend([uniform("rows_high", 1, digit, true), uniform("rows_low", 2, digit, true)]);
        bindings.extend(self.storage);
        bindings
    }

    /// Returns all structs that the host writes.
    #[must_use]
    pub fn structs(&self) -> Vec<Struct> {
        [&[self.params, Digit::LAYOUT], self.structs].concat()
    }
}

/// The pieces that a kernel chooses.
pub(crate) type Chosen = [Piece; 4];

/// Functions that a shader calls and that a kernel chooses, as text: a branch on a constant would do, but drivers compile what it rules
/// out before they remove it, which takes ten times as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Its name; no other piece for the same shader has it.
    pub name: &'static str,
    /// Its WGSL.
    pub wgsl: &'static str,
}

impl Piece {
    pub(crate) const NONE: Self = Self { name: "", wgsl: "" };

    /// This piece, where a kernel chooses no other.
    pub(crate) const fn alone(self) -> Chosen {
        [self, Self::NONE, Self::NONE, Self::NONE]
    }
}

/// The text of a file below `shaders`, without comments and indentation: the build script writes it.
macro_rules! text {
    ($($part:literal),+) => {
        include_str!(concat!(env!("OUT_DIR"), "/shaders/", $($part,)+ ".wgsl"))
    };
}

pub(crate) use text;

/// The number of rows.
const ROWS: &str = text!("shared/rows");

impl Shader {
    /// What no other module has: its name and those of the functions that were chosen.
    pub(crate) fn key(&self) -> (&'static str, [&'static str; 4]) {
        (self.name, self.chosen.map(|piece| piece.name))
    }
}

impl PartialEq for Shader {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Shader {}

impl Hash for Shader {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// One resource of a shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub binding: u32,
    /// Its type.
    pub kind: BindingKind,
}

/// The type of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BindingKind {
    /// A uniform buffer.
    Uniform {
        /// Size in bytes.
        size: usize,
        /// Whether each dispatch gives its offset.
        dynamic: bool,
    },
    /// A storage buffer that the shader only reads.
    Read,
    /// A storage buffer that the shader writes.
    ReadWrite,
}

/// A struct that the host writes and a shader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Struct {
    /// Its name in WGSL.
    pub name: &'static str,
    /// Its size on the host in bytes.
    pub size: usize,
    /// Names and byte offsets of its fields. A player, which is built without the feature `flow`, has none, to be small.
    pub fields: &'static [(&'static str, usize)],
}

/// Declares a struct that the host writes and a shader reads, with its [`Struct`] as `LAYOUT`. The WGSL documents the fields.
macro_rules! wgsl_struct {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $t:ty),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub(crate) struct $name {
            $(pub(crate) $field: $t),*
        }

        impl $name {
            pub(crate) const LAYOUT: $crate::gpu::device::shader::Struct = $crate::gpu::device::shader::Struct {
                name: stringify!($name),
                size: size_of::<$name>(),
                fields: if cfg!(feature = "flow") {
                    &[$((stringify!($field), std::mem::offset_of!($name, $field))),*]
                } else {
                    &[]
                },
            };
        }
    };
}

pub(crate) use wgsl_struct;

wgsl_struct! {
    /// `Digit` of `shared/rows.wgsl`.
    Digit { value: u32 }
}

/// The first number after those of the uniform buffers, which every shader has.
pub(crate) const FIRST_STORAGE: u32 = 3;

/// A storage buffer that a shader only reads.
pub(crate) const fn read(name: &'static str, binding: u32) -> Binding {
    Binding { name, binding, kind: BindingKind::Read }
}

/// A storage buffer that a shader reads or writes.
pub(crate) const fn read_write(name: &'static str, binding: u32) -> Binding {
    Binding { name, binding, kind: BindingKind::ReadWrite }
}

/// Storage buffers that a shader reads or writes, by their names in WGSL and their numbers.
macro_rules! storage {
    ($($name:ident: $binding:expr),* $(,)?) => {
        &[$($crate::gpu::device::shader::read_write(stringify!($name), $binding)),*]
    };
}

pub(crate) use storage;
