//! With the feature `cuda`: what stands in for the driver's library while linking, see
//! `cuda/driver.c`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cuda");
    #[cfg(feature = "cuda")]
    driver_stand_in();
}

#[cfg(feature = "cuda")]
fn driver_stand_in() {
    cc::Build::new()
        .file("cuda/driver.c")
        .opt_level(2)
        .compile("costmark_cuda_driver");
    // cudarc asks for `-lcuda`, which a machine without a driver lacks.
    if let Ok(folder) = std::env::var("OUT_DIR") {
        let folder = std::path::Path::new(&folder);
        let copied = std::fs::copy(
            folder.join("libcostmark_cuda_driver.a"),
            folder.join("libcuda.a"),
        );
        if let Err(error) = copied {
            println!("cargo:error=cannot write to {}: {error}", folder.display());
        }
    }
}
