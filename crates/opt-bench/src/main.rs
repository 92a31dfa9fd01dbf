//! The program that `cargo xtask experiment`, `train` and `bench` start.

fn main() -> std::process::ExitCode {
    opt_bench::cli::main()
}
