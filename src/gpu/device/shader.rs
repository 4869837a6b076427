//! Shader modules: their WGSL and what the host supplies to them.

use std::hash::{Hash, Hasher};

/// One shader module.
#[derive(Debug)]
pub struct Shader {
    /// Its name, which no other module has.
    pub name: &'static str,
    /// Its WGSL, in pieces that modules share. They are joined when the module is compiled.
    pub sources: &'static [&'static str],
    /// Its override constants.
    pub overrides: &'static [&'static str],
    /// Its resources, all in group 0, by ascending numbers.
    pub bindings: &'static [Binding],
    /// The structs that the host writes.
    pub structs: &'static [Struct],
    /// Whether it uses subgroup operations.
    pub subgroups: bool,
    /// Whether it uses cooperative matrices.
    pub coopmat: bool,
}

impl Shader {
    /// Joins the pieces of its WGSL.
    #[must_use]
    pub fn wgsl(&self) -> String {
        self.sources.join("\n")
    }
}

impl PartialEq for Shader {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Shader {}

impl Hash for Shader {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
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
    /// Names and byte offsets of its fields.
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
                fields: &[$((stringify!($field), std::mem::offset_of!($name, $field))),*],
            };
        }
    };
}

pub(crate) use wgsl_struct;

wgsl_struct! {
    /// `Digit` of `shared/rows.wgsl`.
    Digit { value: u32 }
}

/// The number of the binding of a kernel's parameters.
pub(crate) const PARAMS: u32 = 0;
/// The numbers of the bindings of the number of rows, and the first number after them.
const ROWS_HIGH: u32 = 1;
const ROWS_LOW: u32 = 2;
pub(crate) const FIRST_STORAGE: u32 = 3;

const fn uniform(name: &'static str, binding: u32, size: usize, dynamic: bool) -> Binding {
    Binding { name, binding, kind: BindingKind::Uniform { size, dynamic } }
}

/// The uniform buffer of a kernel's parameters.
pub(crate) const fn params(layout: Struct) -> Binding {
    uniform("params", PARAMS, layout.size, false)
}

/// The uniform buffers of the number of rows, which every shader has.
pub(crate) const ROWS: [Binding; 2] = [
    uniform("rows_high", ROWS_HIGH, size_of::<Digit>(), true),
    uniform("rows_low", ROWS_LOW, size_of::<Digit>(), true),
];

/// A storage buffer that a shader only reads.
pub(crate) const fn read(name: &'static str, binding: u32) -> Binding {
    Binding { name, binding, kind: BindingKind::Read }
}

/// A storage buffer that a shader reads or writes.
pub(crate) const fn read_write(name: &'static str, binding: u32) -> Binding {
    Binding { name, binding, kind: BindingKind::ReadWrite }
}
