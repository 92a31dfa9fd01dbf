//! The report in a browser: opened from the disk without a network, sorted, and as narrow as a phone.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use opt_report::rewrite_report;

/// Stands first in the page, so that no error comes before it.
const WATCH: &str = r#"<script>
window.complaints = [];
window.addEventListener("error", function (event) { complaints.push("error: " + event.message); }, true);
window.addEventListener("unhandledrejection", function (event) { complaints.push("rejection: " + event.reason); });
["error", "warn"].forEach(function (kind) {
  console[kind] = function (words) { complaints.push("console." + kind + ": " + words); };
});
</script>"#;

/// Stands last: looks at the page, clicks, and tells its verdict.
const LOOK: &str = r##"<script>
window.addEventListener("load", function () {
  function expect(what, holds) { if (!holds) complaints.push(what); }
  function cells(table, index) {
    return Array.from(table.tBodies[0].rows).map(function (row) { return row.cells[index]; });
  }
  function is_sorted(values, up) {
    return values.every(function (value, i) {
      return i === 0 || (up ? values[i - 1] <= value : values[i - 1] >= value);
    });
  }
  try {
    var results = document.querySelector("#results");
    var n = results.tBodies[0].rows.length;
    var seeds = new Set(cells(document.querySelector("#runs"), 2).map(function (cell) { return cell.textContent; }));
    var runs = document.querySelector("#runs").tBodies[0].rows.length;
    expect("a row per variant, not " + n + " of " + runs, n > 20 && n * seeds.size === runs);
    ["#lead", "#contests", "#runs", "#layers-1"].forEach(function (id) {
      expect("a table " + id, document.querySelector(id + " tbody tr"));
    });
    var plots = document.querySelectorAll("figure > svg");
    expect("plots, not " + plots.length, plots.length >= 6);
    plots.forEach(function (plot) {
      var box = plot.getBoundingClientRect();
      expect("a plot has a size", box.width > 200 && box.height > 200);
      expect("a plot has words and markers", plot.querySelector("text") && plot.querySelector("polygon"));
      var view = plot.viewBox.baseVal;
      var words = Array.from(plot.querySelectorAll("text"));
      words.forEach(function (text) {
        var at = text.getBBox();
        expect("`" + text.textContent + "` lies within its plot", at.x >= 0 && at.x + at.width <= view.width);
      });
      words.forEach(function (a, i) {
        words.slice(i + 1).forEach(function (b) {
          var p = a.getBBox(), q = b.getBBox(), slack = 4;
          expect("`" + a.textContent + "` lies on `" + b.textContent + "`",
            p.x + p.width <= q.x + slack || q.x + q.width <= p.x + slack ||
            p.y + p.height <= q.y + slack || q.y + q.height <= p.y + slack);
        });
      });
    });
    var width = document.documentElement.clientWidth;
    document.querySelectorAll("details").forEach(function (details) { details.open = true; });
    expect("the page is " + document.documentElement.scrollWidth + " wide and the window " + width,
      document.documentElement.scrollWidth <= width);

    var heads = Array.from(results.tHead.rows[0].cells);
    function column(name) { return heads.findIndex(function (head) { return head.textContent.startsWith(name); }); }
    var size = column("Size"), button = heads[size].querySelector("button");
    function numbers() {
      return cells(results, size).map(function (cell) { return parseFloat(cell.textContent.replace(/,/g, "")); });
    }
    var smaller = column("Smaller"), variant = column("Variant");
    function name(cell) { return cell.firstChild.textContent; }
    var unknown = cells(results, smaller).filter(function (cell) { return cell.textContent === "–"; })
      .map(function (cell) { return name(cell.parentNode.cells[variant]); });
    expect("baselines: " + unknown.join(), unknown.length >= 3);
    var before = numbers();
    expect("not sorted by size from the start", !is_sorted(before, true) && !is_sorted(before, false));
    button.click();
    expect("aria-sort says ascending", heads[size].getAttribute("aria-sort") === "ascending");
    expect("ascending by size", is_sorted(numbers(), true));
    button.click();
    expect("aria-sort says descending", heads[size].getAttribute("aria-sort") === "descending");
    expect("descending by size", is_sorted(numbers(), false));
    expect("no row is lost", numbers().length === n);

    // Baselines have no ratio: they stay last both ways, in their order.
    [true, false].forEach(function () {
      heads[smaller].querySelector("button").click();
      var last = cells(results, smaller).slice(-unknown.length);
      expect("unknown ratios last", last.every(function (cell) { return cell.textContent === "–"; }));
      var names = cells(results, variant).slice(-unknown.length).map(name);
      expect("equal rows keep their order: " + names.join(), names.join() === unknown.join());
    });
    heads[variant].querySelector("button").click();
    var names = cells(results, variant).map(name);
    expect("words sort as words", names[0] < names[n - 1] && names.indexOf("W3A8 post-training") > 0);
    expect("and by the name alone: " + names.join(), names.indexOf("airbench-s") < names.indexOf("airbench-s alone"));
    expect("only one column is the sorted one", results.querySelectorAll("[aria-sort]").length === 1);
  } catch (error) {
    complaints.push("the look itself failed: " + error);
  }
  parent.postMessage(complaints.length ? "BAD: " + complaints.join(" | ") : "GOOD at " + window.innerWidth, "*");
});
</script>"##;

/// The page is looked at in a frame: a window of Chromium is never as narrow as a phone.
const FRAME: &str = r#"<!DOCTYPE html><p id="verdict">BAD: no verdict</p><script>
window.addEventListener("message", function (event) { document.querySelector("p").textContent = event.data; });
</script><iframe src="watched.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>"#;

fn chromium() -> PathBuf {
    std::env::var_os("CHROMIUM").map_or_else(|| "chromium".into(), PathBuf::from)
}

/// A committed run with its report written anew.
fn report(folder: &Path) -> String {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/results/quick-cifar10-jpeg75");
    for file in [
        "run.json",
        "results.jsonl",
        "curves.jsonl",
        "correct.jsonl",
        "layers.jsonl",
    ] {
        fs::copy(run.join(file), folder.join(file)).unwrap();
    }
    rewrite_report(folder).unwrap();
    fs::read_to_string(folder.join("report.html")).unwrap()
}

/// The verdict of the page in a window of this width, and what the browser complained of.
fn look_at(page: &str, width: u32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frame.html");
    let watched = page
        .replacen(
            "<meta charset=\"utf-8\">",
            &format!("<meta charset=\"utf-8\">{WATCH}"),
            1,
        )
        .replace("</body>", &format!("{LOOK}</body>"));
    fs::write(folder.path().join("watched.html"), watched).unwrap();
    fs::write(&path, FRAME.replace("WIDTH", &width.to_string())).unwrap();
    let output = Command::new(chromium())
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-extensions",
        ])
        .args([
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--proxy-server=127.0.0.1:9",
        ])
        .args([
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
        ])
        .arg("--window-size=1400,1000")
        .arg(format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        ))
        .arg(format!("file://{}", path.display()))
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "starting {}: {error}; set CHROMIUM to a Chromium",
                chromium().display()
            )
        });
    let (dom, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let verdict = dom
        .split("id=\"verdict\">")
        .nth(1)
        .and_then(|rest| rest.split("</p>").next())
        .unwrap_or("BAD: the page left no verdict");
    let console: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(":CONSOLE"))
        .collect();
    match console.is_empty() {
        true => verdict.to_owned(),
        false => format!("BAD: {} ({verdict})", console.join(" | ")),
    }
}

#[test]
#[ignore = "needs Chromium; `cargo xtask test` runs it where there is one"]
fn the_report_works_from_the_disk_and_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let page = report(folder.path());
    for width in [1280, 390] {
        assert_eq!(look_at(&page, width), format!("GOOD at {width}"));
    }
    // The look can fail: each of these breaks one thing.
    let broken = [
        (
            "return up ? order : -order",
            "return order",
            "descending by size",
        ),
        (
            "parseFloat(cell.dataset.v)",
            "cell.textContent",
            "ascending by size",
        ),
        (
            "overflow-x: auto",
            "overflow-x: visible",
            "wide and the window",
        ),
        (
            "</main>",
            "<script>missing()</script></main>",
            "missing is not defined",
        ),
        ("</main>", "<img src=\"absent.png\"></main>", "BAD"),
        ("<svg viewBox", "<b viewBox", "plots, not 0"),
        (
            ">85</text>",
            " transform=\"scale(1)\">85 and much more than there is room for at the left</text>",
            "within its plot",
        ),
    ];
    for (from, to, complaint) in broken {
        assert!(page.contains(from), "{from}");
        let verdict = look_at(&page.replace(from, to), 390);
        assert!(
            verdict.starts_with("BAD") && verdict.contains(complaint),
            "{from}: {verdict}"
        );
    }
}
