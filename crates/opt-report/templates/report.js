document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = Array.from(table.tHead.rows[0].cells), body = table.tBodies[0];
  var original = Array.from(body.rows);
  var collator = new Intl.Collator("en", { numeric: true });
  heads.forEach(function (head, index) {
    var button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.textContent = head.firstChild.textContent;
    head.replaceChild(button, head.firstChild);
    button.addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var rows = original.map(function (row) {
        var cell = row.cells[index];
        // Words sort by their first line; what stands below it in small is no part of the name.
        var words = cell.firstChild ? cell.firstChild.textContent.trim() : "";
        var key = head.classList.contains("n") ? parseFloat(cell.dataset.v) : words;
        return { row: row, key: key, missing: key === "" || key !== key };
      });
      // Rows without a value stay last either way; equal ones keep their order.
      rows.sort(function (a, b) {
        if (a.missing || b.missing) return a.missing - b.missing;
        var order = typeof a.key === "number" ? a.key - b.key : collator.compare(a.key, b.key);
        return up ? order : -order;
      });
      rows.forEach(function (sorted) { body.appendChild(sorted.row); });
    });
  });
});
