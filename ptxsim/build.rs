//! Names the shared library for the dynamic loader.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // cudarc opens "libcuda.so" first; glibc answers with a loaded object whose SONAME is that name.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    // cudarc's presence probe closes the library again; unloading code with thread-locals is unsound.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // A program that links the rlib may export the same names: the library must call its own.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
