//! The program that `cargo xtask experiment` and `cargo xtask train` start.

fn main() -> std::process::ExitCode {
    opt_bench::cli::main()
}
