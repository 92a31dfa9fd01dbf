//! The program as a person starts it: the smoke profile end to end, plans, and mistakes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output};

use opt_experiment::variant::slug;
use opt_report::{Arm, Layer, LayerLine, NotRun, ResultLine, RunInfo, Summary, read_lines};

/// The program with a cache of its own, so that nothing was trained before.
fn command(cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opt-rs"));
    command
        .args(args)
        .env_remove("OPT_DATA_DIR")
        .env("OPT_CACHE_DIR", cache)
        .env_remove("OPT_PEERS_PYTHON")
        // Tests run side by side: threads that wait for each other would wait for other tests' threads.
        .env("OMP_NUM_THREADS", "1");
    command
}

fn opt_rs(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    command(cache.path(), args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn smoke_leaves_everything_that_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let out_text = out.to_str().unwrap();
    let args = [
        "experiment",
        "all",
        "--profile",
        "smoke",
        "--data",
        "synthetic",
        "--device",
        "cpu",
        "--out",
        out_text,
        "--threads",
        "1",
    ];
    let cache = dir.path().join("cache");
    // What is asked for on the command line holds.
    let mut first = command(&cache, &args);
    let output = first.env("OMP_NUM_THREADS", "3").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("NOTICE: synthetic data"),
        "{}",
        stderr(&output)
    );

    let info: RunInfo =
        serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    assert_eq!(info.threads, 1);
    assert!(info.finished.is_some() && info.dataset.hash.starts_with("sha256:"));
    // Phases that several experiments share were trained here, not before.
    let notes = info.notes.join("\n");
    assert!(!notes.contains("were done before"), "{notes}");
    let lines = read_lines::<ResultLine>(&out.join("results.jsonl"))
        .unwrap()
        .values;
    for experiment in ["baseline", "prune", "quantize", "distill", "pipeline"] {
        let variants = lines.iter().filter(|l| l.experiment == experiment).count();
        assert!(variants >= 3, "{experiment}: {variants}");
    }
    for line in &lines {
        // The size is that of the file, and the numbers are possible ones.
        let file = std::fs::metadata(out.join(&line.file)).unwrap();
        assert_eq!(file.len(), line.bytes, "{}", line.variant);
        assert!(
            (0.0..=100.0).contains(&line.top1) && line.nonzero <= line.params,
            "{line:?}"
        );
        assert_eq!(line.dataset, "synthetic");
        // The paired counts explain the difference to the baseline.
        assert_eq!(line.discordant.is_some(), line.baseline.is_some());
        if let Some(counts) = line.discordant {
            let images = counts.only_variant as f64 - counts.only_baseline as f64;
            let points = 100.0 * images / line.n_test as f64;
            // Percentages of two roundings.
            assert!(
                (line.top1 - line.top1_baseline - points).abs() < 1e-9,
                "{line:?}"
            );
        }
    }
    // Methods that cost the same are paired with each other, image by image; names are no part of a size.
    let summary: Summary =
        serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    let methods = &summary.comparisons;
    for experiment in ["prune", "quantize", "distill"] {
        assert!(
            methods.iter().any(|m| m.experiment == experiment),
            "{experiment}"
        );
    }
    let mut contests = methods.iter().flat_map(|m| &m.contests);
    assert!(contests.all(|contest| contest.significance.discordant.is_some()));
    assert!(methods.iter().any(|method| method.taught().is_some()));
    for row in &summary.rows {
        let original = row.original.as_ref();
        assert_eq!(
            original.is_some(),
            row.baseline.is_some(),
            "{}",
            row.variant
        );
        let trained_on = row.variant.ends_with("trained further");
        if let Some(original) = original.filter(|_| trained_on) {
            assert_ne!(row.bytes, row.bytes_content);
            assert_eq!(row.bytes_content, original.bytes_content);
        }
    }
    let find = |variant: &str| lines.iter().find(|l| l.variant == variant).unwrap();
    // Pruning keeps the exact count: of the weights of convolutions and the linear layer, 30 % stay. Biases may be zero.
    let zoo = opt_core::zoo::build("airbench_16_32_32", &opt_core::Task::cifar10(), 0).unwrap();
    let cost = opt_core::cost::cost(&zoo).unwrap();
    let (weights, others) = (cost.weights as u64, (cost.params - cost.weights) as u64);
    let kept = (3 * weights + 5) / 10;
    for variant in ["70 % global, one-shot", "70 % global, 2 rounds"] {
        let nonzero = find(variant).nonzero;
        assert!(
            (kept..=kept + others).contains(&nonzero),
            "{variant}: {nonzero} of {kept} + {others}"
        );
        assert!(
            nonzero + 5 > kept + others,
            "{variant}: biases are rarely zero"
        );
    }
    // A teacher's gain is one over the student with steps as long, and all arms say what they take part in.
    let arms = |experiment: &str, part: Arm| -> Vec<&str> {
        let arms = lines
            .iter()
            .filter(|l| l.experiment == experiment && l.arm == Some(part));
        arms.map(|l| l.variant.as_str()).collect()
    };
    let alone = ["", ", label smoothing 0.1", ", lr 0.2", ", loss × 14.5"];
    assert_eq!(
        arms("distill", Arm::Control),
        alone.map(|how| format!("small alone{how}"))
    );
    let taught = ["T = 4", "T = 4, lr 0.05"].map(|how| format!("small taught by large, {how}"));
    assert_eq!(arms("distill", Arm::Taught), taught);
    let alone = ["", ", lr 0.04", ", loss × 14.5"];
    let alone = alone.map(|how| format!("2. fine-tuned without a teacher{how}"));
    assert_eq!(arms("pipeline", Arm::Control), alone);
    assert_eq!(
        arms("pipeline", Arm::Taught),
        ["2. fine-tuned with a teacher"]
    );
    // Every step of the pipeline is compared with one network.
    for line in lines.iter().filter(|l| l.experiment == "pipeline") {
        let expected = (line.variant != "large trained further").then_some("large trained further");
        let expected = expected.or(Some("large"));
        assert_eq!(line.baseline.as_deref(), expected, "{}", line.variant);
    }
    // The pipeline's file is four times smaller at least, and integers.
    let last = find("4. W8A8 quantization-aware");
    assert!(last.bytes * 4 <= last.bytes_baseline.unwrap());
    opt_artifact::load_qmodel(&out.join(&last.file)).unwrap();
    for file in [
        "summary.json",
        "report.html",
        "report.md",
        "curves.jsonl",
        "plots/accuracy-bytes.svg",
        "plots/accuracy-bytes.png",
    ] {
        assert!(
            std::fs::metadata(out.join(file)).unwrap().len() > 100,
            "{file}"
        );
    }

    // Every variant has its layers, with the bits of its file.
    let layers = read_lines::<LayerLine>(&out.join("layers.jsonl"))
        .unwrap()
        .values;
    assert_eq!(layers.len(), lines.len());
    for (line, layers) in lines.iter().zip(&layers) {
        assert_eq!(line.variant, layers.variant);
        let sum = |of: fn(&Layer) -> u64| layers.layers.iter().map(of).sum::<u64>();
        assert_eq!(
            (sum(|l| l.macs), sum(|l| l.params)),
            (line.macs, line.params)
        );
        let mut bits = layers
            .layers
            .iter()
            .filter(|l| l.macs > 0)
            .map(|l| l.weight_bits);
        assert!(bits.any(|bits| bits == line.weight_bits), "{line:?}");
    }
    // The report is made of these files alone.
    let report = std::fs::read(out.join("report.html")).unwrap();
    std::fs::remove_file(out.join("report.html")).unwrap();
    let output = opt_rs(&["report", out_text]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        std::fs::read(out.join("report.html")).unwrap() == report,
        "another report"
    );

    // Somebody else is at work in the folder.
    let lock = std::fs::File::open(out.join(".lock")).unwrap();
    lock.lock().unwrap();
    let refused = command(&cache, &args).output().unwrap();
    assert!(!refused.status.success());
    assert!(
        stderr(&refused).contains("is in use by another run"),
        "{}",
        stderr(&refused)
    );
    drop(lock);

    // The same command again repeats nothing and changes nothing.
    let before = std::fs::read(out.join("results.jsonl")).unwrap();
    let again = command(&cache, &args).output().unwrap();
    assert!(again.status.success(), "{}", stderr(&again));
    let measured = stderr(&again).matches("measured before: top-1").count();
    assert_eq!(measured, lines.len(), "{}", stderr(&again));
    assert!(!stderr(&again).contains("images/s"), "{}", stderr(&again));
    assert_eq!(std::fs::read(out.join("results.jsonl")).unwrap(), before);

    // Another profile in the same folder: refused, and nothing is lost.
    let mut other = args;
    other[3] = "quick";
    let refused = command(&cache, &other).output().unwrap();
    assert!(!refused.status.success());
    let text = stderr(&refused);
    assert!(
        text.contains("its profile is `smoke`, now it would be `quick`; name another folder"),
        "{text}"
    );
    assert_eq!(std::fs::read(out.join("results.jsonl")).unwrap(), before);
}

/// A profile of seconds: one network, pruned to `sparsity`.
fn small_profile(sparsity: f64) -> String {
    let train = "epochs = 3\nbatch = 32\nlr = 0.05\n";
    format!(
        "about = \"small\"\nseeds = 1\ntrain_images = 600\ntest_images = 100\ncalibration_images = 50\n\
         [[baseline]]\nname = \"base\"\nmodel = \"airbench_8_8_8\"\n[baseline.train]\n{train}\
         [[prune]]\nbase = \"base\"\nsparsities = [{sparsity}]\nrounds = 2\nround_epochs = 1\n\
         scopes = [\"global\"]\nlikelihood_weights = 0\n[prune.fine_tune]\n{train}"
    )
}

#[test]
fn a_killed_run_goes_on_and_a_changed_recipe_repeats_only_what_it_touches() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("small.toml");
    std::fs::write(&profile, small_profile(0.5)).unwrap();
    let args = |out: &str| {
        let out = dir.path().join(out).to_str().unwrap().to_owned();
        let profile = profile.to_str().unwrap().to_owned();
        let words = "experiment prune --data synthetic --device cpu --profile";
        let mut args: Vec<String> = words.split(' ').map(str::to_owned).collect();
        args.extend([profile, "--out".to_owned(), out]);
        args
    };
    let start = |cache: &str, out: &str| {
        let args = args(out);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(&dir.path().join(cache), &args)
    };
    let run = |cache: &str, out: &str| {
        let output = start(cache, out).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let lines = |out: &str| {
        let mut lines = read_lines::<ResultLine>(&dir.path().join(out).join("results.jsonl"))
            .unwrap()
            .values;
        for line in &mut lines {
            // What may differ between two runs of the same.
            line.seconds = 0.0;
        }
        lines
    };
    run("cache-1", "whole");
    let whole = lines("whole");
    assert_eq!(whole.len(), 4);

    // Killed in the second epoch of the first network.
    let mut child = start("cache-2", "stopped")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("epoch 1/3") {
        assert!(output.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = run("cache-2", "stopped");
    assert!(
        resumed.contains("base · seed 0 · train: going on after epoch"),
        "{resumed}"
    );
    assert!(
        !resumed.contains("base · seed 0 · train epoch 1/3"),
        "{resumed}"
    );
    assert_eq!(lines("stopped"), whole);
    for line in &whole {
        let model = |out: &str| std::fs::read(dir.path().join(out).join(&line.file)).unwrap();
        assert!(model("whole") == model("stopped"), "{}", line.file);
    }

    // Another sparsity: baseline and control stay, the pruned variants are new, the old ones are not lost.
    std::fs::write(&profile, small_profile(0.25)).unwrap();
    let changed = run("cache-1", "whole");
    assert_eq!(changed.matches("measured before").count(), 2, "{changed}");
    assert_eq!(lines("whole").len(), 4);
    assert_eq!(lines("whole")[..2], whole[..2]);
    let superseded = dir.path().join("whole/superseded.jsonl");
    let superseded = read_lines::<ResultLine>(&superseded).unwrap().values;
    let names =
        |lines: &[ResultLine]| -> Vec<String> { lines.iter().map(|l| l.variant.clone()).collect() };
    assert_eq!(names(&superseded), names(&whole[2..]));

    // A new folder with the same cache trains nothing.
    let elsewhere = run("cache-1", "elsewhere");
    assert!(!elsewhere.contains("images/s"), "{elsewhere}");
    // The base, and two rounds of the control and of each schedule.
    assert_eq!(
        elsewhere.matches("trained before").count(),
        7,
        "{elsewhere}"
    );
    assert_eq!(lines("elsewhere"), lines("whole"));

    // Fewer test images: nothing is trained, and everything is measured.
    let fewer = small_profile(0.25).replace("test_images = 100", "test_images = 60");
    std::fs::write(&profile, fewer).unwrap();
    let again = run("cache-1", "elsewhere");
    let what = "600 training and 60 test images in place of 600 and 100: trained networks stay";
    assert!(again.contains(what), "{again}");
    assert!(!again.contains("images/s"), "{again}");
    assert_eq!(again.matches("measured before").count(), 0, "{again}");
    let measured = lines("elsewhere");
    assert_eq!(names(&measured), names(&lines("whole")));
    assert!(measured.iter().all(|line| line.n_test == 60));
    let info = std::fs::read_to_string(dir.path().join("elsewhere/run.json")).unwrap();
    assert!(info.contains("were done before, from 20"), "{info}");
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let output = opt_rs(&[
        "experiment",
        "prune",
        "--dry-run",
        "--data",
        "synthetic",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stderr(&output);
    // Only what `prune` needs: its base and itself.
    assert!(
        text.contains("airbench-m, 14 epochs") && text.contains("80 % global, 2 rounds, 3 epochs"),
        "{text}"
    );
    assert!(
        !text.contains("distill") && text.contains("expected in all: about"),
        "{text}"
    );
    assert!(!out.exists());
}

#[test]
fn mistakes_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown_key = file(
        "key.toml",
        "name = \"a\"\nmodel = \"resnet20\"\n[train]\nepoch = 1\nlr = 0.1\n",
    );
    let sound = file(
        "sound.toml",
        "name = \"a\"\nmodel = \"resnet20\"\n[train]\nepochs = 0\nlr = 0.1\n",
    );
    let noise = file("noise.safetensors", "not a checkpoint");
    let missing = dir.path().join("nowhere").to_str().unwrap().to_owned();
    let out = dir.path().join("out").to_str().unwrap().to_owned();
    let cases: &[(&[&str], &str)] = &[
        // A folder without a run.
        (&["report", &missing], "run.json; name the folder of a run"),
        // Names that do not exist, with those that do.
        (
            &["experiment", "prun", "--data", "synthetic"],
            "there are baseline, prune, quantize",
        ),
        (
            &[
                "experiment",
                "all",
                "--profile",
                "fast",
                "--data",
                "synthetic",
            ],
            "there are smoke, quick, full",
        ),
        (
            &[
                "experiment",
                "all",
                "--device",
                "gpu",
                "--data",
                "synthetic",
            ],
            "expected auto, cpu, cuda or cuda:N",
        ),
        (
            &["experiment", "all", "--seeds", "0", "--data", "synthetic"],
            "--seeds is 0",
        ),
        (
            &["experiment", "all", "--budget", "soon"],
            "invalid value 'soon' for '--budget <TIME>'",
        ),
        (
            &["experiment", "all", "--budget", "1h", "--seeds", "2"],
            "'--budget <TIME>' cannot be used with '--seeds <N>'",
        ),
        (
            &[
                "experiment",
                "all",
                "--budget",
                "1s",
                "--dry-run",
                "--data",
                "synthetic",
            ],
            "a budget of 1s is too short: baseline, prune",
        ),
        // A folder that is not there is an error, never another data set.
        (
            &["experiment", "all", "--data", &missing],
            "name a folder with --data DIR",
        ),
        // A set with a size of its own.
        (
            &[
                "experiment",
                "all",
                "--data",
                "synthetic",
                "--image-size",
                "64",
            ],
            "the images of synthetic are 32×32",
        ),
        // Recipes and checkpoints, with the file's name.
        (
            &["train", &missing, "--data", "synthetic"],
            "reading the recipe",
        ),
        (
            &["train", &unknown_key, "--data", "synthetic"],
            "unknown field `epoch`",
        ),
        (
            &[
                "train",
                &sound,
                "--data",
                "synthetic",
                "--weights",
                &noise,
                "--out",
                &out,
            ],
            "noise.safetensors into the network `resnet20`",
        ),
        // Benchmarks: no Python, one that is not there, a case that does not exist, too few rounds for an interval.
        (&["bench", "train"], "run `cargo xtask setup --peers`"),
        (
            &["bench", "data", "--python", &missing],
            "cannot be started; run `cargo xtask setup --peers`",
        ),
        (
            &["bench", "train", "--case", "vgg"],
            "no case contains `vgg`; there are resnet20, source_net",
        ),
        (&["bench", "data", "--rounds", "1"], "2..=1000"),
    ];
    for (args, expect) in cases {
        let output = opt_rs(args);
        let text = stderr(&output);
        assert!(
            !output.status.success() && text.contains(expect),
            "{args:?}: {text}"
        );
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn a_recipe_leaves_a_checkpoint_and_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let recipe = dir.path().join("tiny.toml");
    let text = "name = \"tiny\"\nmodel = \"airbench_2_2_2\"\n[train]\nepochs = 1\nbatch = 500\nlr = 0.1\n\
         [quantize]\nbits = 5\ncalibration_images = 100\n";
    std::fs::write(&recipe, text).unwrap();
    let output = opt_rs(&[
        "train",
        recipe.to_str().unwrap(),
        "--data",
        "synthetic",
        "--holdout",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = read_lines::<ResultLine>(&out.join("results.jsonl"))
        .unwrap()
        .values;
    assert_eq!((lines.len(), lines[0].n_test), (2, 1000));
    // The integer network is beside it, and the program says where; it has no additions to tell apart.
    let opt = "models/train-airbench_2_2_2-w5a8-s0.opt";
    assert_eq!(
        (lines[1].variant.as_str(), lines[1].file.as_str()),
        ("W5A8", opt)
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("\n  {opt}\n")), "{said}");
    opt_artifact::load_qmodel(&out.join(opt)).unwrap();
    // The file is a plain checkpoint too: it imports by names, and training can go on from it.
    let file = out.join(&lines[0].file);
    let again = opt_rs(&[
        "train",
        recipe.to_str().unwrap(),
        "--data",
        "synthetic",
        "--weights",
        file.to_str().unwrap(),
        "--out",
        Path::new(&out).with_extension("2").to_str().unwrap(),
    ]);
    assert!(again.status.success(), "{}", stderr(&again));
}

#[test]
fn a_profile_of_ones_own_is_checked_before_it_runs_and_may_have_two_teachers() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("own.toml");
    let head = "about = \"two of one name\"\nseeds = 1\ntrain_images = 20\ntest_images = 10\ncalibration_images = 10\n";
    let baseline = |name: &str| {
        format!(
            "[[baseline]]\nname = \"{name}\"\nmodel = \"airbench_2_2_2\"\n[baseline.train]\nepochs = 0\nlr = 0.1\n"
        )
    };
    let quantize = |levels: &str| {
        format!(
            "[[quantize]]\nbase = \"tiny\"\nweight_levels = [{levels}]\npost_training = []\nqat = []\n\
             [quantize.qat_train]\nepochs = 0\nlr = 0.1\n"
        )
    };
    let distill = |teacher: &str| {
        format!(
            "[[distill]]\nteacher = \"{teacher}\"\nstudent = \"tiny\"\ntemperatures = [4.0]\nw_kd = 0.9\n\
             w_ce = 0.1\ncontrol_smoothing = 0.1\ncontrol_lrs = [0.1, 0.2]\ncontrol_weight = true\n\
             taught_lrs = [0.1, 0.05]\n"
        )
    };
    let out = dir.path().join("run");
    let run = |levels: &str| {
        let names = ["tiny", "large", "larger"].map(baseline).concat();
        let text = [
            head,
            &names,
            &quantize(levels),
            &distill("large"),
            &distill("larger"),
        ]
        .concat();
        std::fs::write(&profile, text).unwrap();
        opt_rs(&[
            "experiment",
            "all",
            "--profile",
            profile.to_str().unwrap(),
            "--data",
            "synthetic",
            "--out",
            out.to_str().unwrap(),
        ])
    };
    // 16 and 15 levels both take 4 bits, and so one name for affine codes.
    let text = stderr(&run("16, 15"));
    assert!(
        text.contains("weight_levels, in bits: 4 is there twice"),
        "{text}"
    );
    assert!(!out.exists());
    let done = run("16");
    assert!(done.status.success(), "{}", stderr(&done));
    let results = out.join("results.jsonl");
    let lines = read_lines::<ResultLine>(&results).unwrap().values;
    let taught = lines.iter().filter(|line| line.experiment == "distill");
    let names: Vec<&str> = taught.map(|line| line.variant.as_str()).collect();
    assert_eq!(
        names,
        [
            "tiny alone",
            "tiny alone, label smoothing 0.1",
            "tiny alone, lr 0.2",
            "tiny alone, loss × 14.5",
            "tiny taught by large, T = 4",
            "tiny taught by large, T = 4, lr 0.05",
            "tiny taught by larger, T = 4",
            "tiny taught by larger, T = 4, lr 0.05"
        ]
    );
    // A folder with results that say nothing about their conditions is refused.
    std::fs::remove_file(out.join("run.json")).unwrap();
    assert!(stderr(&run("16")).contains("holds results without a run.json"));
}

#[test]
fn an_arm_that_diverges_is_named_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("own.toml");
    let text = "about = \"a step that is much too long\"\nseeds = 1\ntrain_images = 60\ntest_images = 10\n\
        calibration_images = 10\n[[baseline]]\nname = \"tiny\"\nmodel = \"airbench_2_2_2\"\n[baseline.train]\n\
        epochs = 2\nbatch = 10\nlr = 0.01\n[[distill]]\nteacher = \"tiny\"\nstudent = \"tiny\"\ntemperatures = [4.0]\n\
        w_kd = 0.9\nw_ce = 0.1\ncontrol_smoothing = 0.0\ncontrol_lrs = [1e30, 0.02]\ntaught_lrs = [1e30]\n\
        [[pipeline]]\nbase = \"tiny\"\nkeep_channels = 0.5\nmultiple_of = 1\ntemperature = 4.0\nw_kd = 1e30\n\
        w_ce = 0.1\ncontrol_weight = true\nbits = 8\n[pipeline.fine_tune]\nepochs = 1\nbatch = 10\nlr = 0.01\n\
        [pipeline.qat_train]\nepochs = 1\nlr = 0.001\n";
    std::fs::write(&profile, text).unwrap();
    let out = dir.path().join("run");
    let args = [
        "experiment",
        "all",
        "--profile",
        profile.to_str().unwrap(),
        "--data",
        "synthetic",
        "--out",
        out.to_str().unwrap(),
    ];
    let cache = dir.path().join("cache");
    let done = command(&cache, &args).output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    let lines = read_lines::<ResultLine>(&out.join("results.jsonl")).unwrap();
    let lines = lines
        .values
        .iter()
        .filter(|line| line.experiment != "baseline");
    let names = lines.map(|line| (line.variant.as_str(), line.baseline.as_deref()));
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            ("tiny alone", None),
            ("tiny alone, lr 0.02", Some("tiny alone")),
            ("tiny taught by tiny, T = 4", Some("tiny alone")),
            ("tiny trained further", Some("tiny")),
            ("1. 50 % of channels removed", Some("tiny trained further")),
            (
                "2. fine-tuned without a teacher",
                Some("tiny trained further")
            ),
        ]
    );
    let info: RunInfo =
        serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    let without = |experiment: &str, variant: &str, why: &str| NotRun {
        what: format!("{experiment} · {variant} · seed 0"),
        why: why.to_owned(),
        file: Some(format!("{experiment}-airbench_2_2_2-{}-s0", slug(variant))),
    };
    let left_out = [
        without(
            "distill",
            "tiny alone, lr 1000000000000000000000000000000",
            "diverged at epoch 1",
        ),
        without(
            "distill",
            "tiny taught by tiny, T = 4, lr 1000000000000000000000000000000",
            "diverged at epoch 1",
        ),
        without(
            "pipeline",
            "2. fine-tuned without a teacher, loss × 16000000000000000000000000000000",
            "diverged at epoch 1",
        ),
        without(
            "pipeline",
            "2. fine-tuned with a teacher",
            "diverged at epoch 1",
        ),
        without(
            "pipeline",
            "3. W8A8 post-training",
            "goes on from `2. fine-tuned with a teacher`, which diverged",
        ),
        without(
            "pipeline",
            "4. W8A8 quantization-aware",
            "goes on from `2. fine-tuned with a teacher`, which diverged",
        ),
    ];
    assert!(info.not_run.ends_with(&left_out), "{:?}", info.not_run);
    let notes = info.notes.join("\n");
    let noted = notes.matches("diverged at epoch 1: it has no line").count();
    assert_eq!(noted, 4, "{notes}");
}

#[test]
fn a_budget_chooses_the_same_seeds_each_time_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("own.toml");
    let text = "about = \"next to nothing\"\nseeds = 1\ntrain_images = 20\ntest_images = 10\n\
        calibration_images = 10\n[[baseline]]\nname = \"tiny\"\nmodel = \"airbench_2_2_2\"\n[baseline.train]\n\
        epochs = 1\nlr = 0.01\n";
    std::fs::write(&profile, text).unwrap();
    let run = |name: &str| {
        let out = dir.path().join(name);
        let args = [
            "experiment",
            "baseline",
            "--profile",
            profile.to_str().unwrap(),
            "--data",
            "synthetic",
            "--device",
            "cpu",
            "--budget",
            "1h",
            "--out",
            out.to_str().unwrap(),
        ];
        let output = command(&dir.path().join("cache"), &args).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let info = std::fs::read(out.join("run.json")).unwrap();
        let info: RunInfo = serde_json::from_slice(&info).unwrap();
        (info, stderr(&output))
    };
    let (info, text) = run("a");
    let note = "budget 1h: 5 seeds instead of 1, all epochs; 1s planned, the rest in reserve";
    assert!(text.contains(note), "{text}");
    assert_eq!((info.seeds.len(), info.notes[0].as_str()), (5, note));
    // What run.json holds is the profile for the same run without a budget.
    assert!(info.recipes[0].text.contains("seeds = 5"), "{info:?}");
    let (again, text) = run("b");
    assert_eq!(
        (again.recipes, again.seeds, &again.notes[0]),
        (info.recipes, info.seeds, &info.notes[0])
    );
    assert!(!text.contains("measuring how fast"), "{text}");
}

#[test]
fn a_training_that_diverges_is_an_error_and_leaves_no_accuracy() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("recipe.toml");
    let text = r#"
        name = "diverges"
        model = "airbench_8_8_8"
        [train]
        epochs = 1
        batch = 128
        lr = 1e6
        schedule = "constant"
    "#;
    std::fs::write(&recipe, text).unwrap();
    let out = dir.path().join("run");
    let args = [
        "train",
        recipe.to_str().unwrap(),
        "--data",
        "synthetic",
        "--device",
        "cpu",
        "--out",
        out.to_str().unwrap(),
    ];
    let output = command(&dir.path().join("cache"), &args).output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("in epoch 1, batch ") && text.contains("lower the learning rate"),
        "{text}"
    );
    let lines = std::fs::read_to_string(out.join("results.jsonl")).unwrap_or_default();
    assert_eq!(lines, "");
}

/// With as many threads as processors the program starts itself again, with each thread bound to one.
#[test]
fn all_processors_are_a_number_of_threads_like_others() {
    let cache = tempfile::tempdir().unwrap();
    let processors = std::thread::available_parallelism().unwrap().get();
    for threads in [processors, processors + 1] {
        let number = threads.to_string();
        let args = [
            "experiment",
            "baseline",
            "--profile",
            "smoke",
            "--data",
            "synthetic",
            "--device",
            "cpu",
            "--dry-run",
            "--threads",
            &number,
        ];
        // Tells, at each start, whether OpenMP binds threads.
        let output = command(cache.path(), &args)
            .env("OMP_DISPLAY_ENV", "true")
            .output()
            .unwrap();
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        let expected = format!("on {threads} thread");
        assert!(
            text.contains(&expected) && !text.contains("warning"),
            "{text}"
        );
        let bound = cfg!(target_os = "linux") && threads == processors && threads > 1;
        assert_eq!(text.contains("OMP_PROC_BIND = 'TRUE'"), bound, "{text}");
    }
    let output = opt_rs(&["experiment", "all", "--threads", "0"]);
    assert!(
        !output.status.success() && stderr(&output).contains("--threads"),
        "{}",
        stderr(&output)
    );
}
