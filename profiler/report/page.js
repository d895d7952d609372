/* What the HTML report does: tables sort, charts say what is below the pointer or the focus. Without it all is there to read. */
"use strict";
(() => {
	const all = (selector, from = document) => [...from.querySelectorAll(selector)];

	function size(bytes) {
		const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
		let unit = 0;
		for (; bytes >= 1024 && unit < 5; unit++) bytes /= 1024;
		return (unit ? bytes.toFixed(1) : bytes.toFixed(0)) + " " + units[unit];
	}

	/* Text only: names come from the trace, and are never markup. */
	function say(readout, parts) {
		readout.replaceChildren(...parts.map((part, i) => {
			const element = document.createElement(i % 2 ? "span" : "b");
			element.textContent = part;
			return element;
		}));
	}

	/* ---- tables ---- */

	const key = (row, column) => {
		const cell = row.cells[column];
		return cell.dataset.n !== undefined ? Number(cell.dataset.n) : cell.textContent;
	};

	function sort(table, column) {
		const head = table.tHead.rows[0].cells[column], body = table.tBodies[0];
		const first = body.rows[0] && typeof key(body.rows[0], column) === "number" ? "descending" : "ascending";
		const order = head.ariaSort !== first ? first : first === "ascending" ? "descending" : "ascending";
		const sign = order === "ascending" ? 1 : -1;
		all("th", table.tHead).forEach(th => th.removeAttribute("aria-sort"));
		head.ariaSort = order;
		const rows = [...body.rows].map(row => [key(row, column), row]);
		rows.sort(([a], [b]) => sign * (a < b ? -1 : a > b ? 1 : 0));
		body.append(...rows.map(([, row]) => row));
	}

	for (const table of all("table.sortable"))
		[...table.tHead.rows[0].cells].forEach((th, column) => {
			if ("fixed" in th.dataset || th.textContent === "share") return;
			const button = document.createElement("button");
			button.type = "button";
			button.textContent = th.textContent;
			button.addEventListener("click", () => sort(table, column));
			th.replaceChildren(button);
		});

	/* ---- memory over time ---- */

	function memoryChart() {
		const plot = document.getElementById("plot"), data = document.getElementById("points");
		if (!plot || !data) return;
		const { kinds, seconds, points, pair } = JSON.parse(data.textContent);
		if (!points.length) return;
		const readout = document.getElementById("plot-readout"), cursor = document.createElement("div");
		let at = points.reduce((most, point, i) => point[1] > points[most][1] ? i : most, 0);
		cursor.className = "cursor";
		cursor.style.top = plot.dataset.top + "px";
		cursor.style.height = plot.dataset.height + "px";
		cursor.hidden = true;
		plot.append(cursor);

		function show(index) {
			at = Math.max(0, Math.min(points.length - 1, index));
			const [s, physical, saved, ...by] = points[at];
			cursor.hidden = false;
			cursor.style.left = 100 * (seconds ? Math.min(1, s / seconds) : 0) + "%";
			if (pair) {
				const names = all("#sides span").map(name => name.textContent);
				say(readout, [`${s.toFixed(3)} s`, `: ${names[0]} ${size(physical)}, ${names[1]} ${size(saved)}`]);
				return;
			}
			const parts = kinds.map((kind, k) => [kind, by[k]]).filter(([, bytes]) => bytes);
			say(readout, [size(physical), ` at ${s.toFixed(3)} s` + (saved ? `, ${size(saved)} saved` : "") + ": " +
				parts.map(([kind, bytes]) => `${kind} ${size(bytes)}`).join(", ")]);
		}
		/* Memory goes in steps: what counts is the last point before. */
		plot.addEventListener("pointermove", event => {
			const box = plot.getBoundingClientRect(), s = (event.clientX - box.left) / box.width * seconds;
			let index = points.findIndex(point => point[0] > s);
			show(index < 0 ? points.length - 1 : index - 1);
		});
		plot.addEventListener("pointerleave", () => cursor.hidden = true);
		plot.addEventListener("keydown", event => {
			const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
			if (!step) return;
			event.preventDefault();
			show(at + step);
		});
	}

	/* ---- moving among the boxes of a chart: one stop of the tab key, then arrows ---- */

	function roving(cells, where) {
		if (!cells.length) return;
		const middle = cell => { const box = cell.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; };
		cells.forEach((cell, i) => cell.setAttribute("tabindex", i ? -1 : 0));
		where.addEventListener("keydown", event => {
			const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
			const now = document.activeElement;
			if (!way || !cells.includes(now)) return;
			event.preventDefault();
			const [x, y] = middle(now);
			let best = null, least = Infinity;
			for (const cell of cells) {
				const [cx, cy] = middle(cell), along = (cx - x) * way[0] + (cy - y) * way[1];
				const across = Math.abs((cx - x) * way[1]) + Math.abs((cy - y) * way[0]);
				if (cell === now || along < 1) continue;
				/* Left and right stay in the line, up and down go to the nearest one. */
				const far = way[0] ? (across > 2 ? Infinity : along) : along * 1000 + across;
				if (far < least) { least = far; best = cell; }
			}
			if (!best) return;
			now.setAttribute("tabindex", -1);
			best.setAttribute("tabindex", 0);
			best.focus();
		});
	}

	/* ---- the KV map ---- */

	for (const map of all("[data-cells]")) {
		const cells = all("rect[data-h]", map), lines = all("[data-layer]", map), readout = map.nextElementSibling;
		const byHandle = new Map();
		for (const cell of cells) {
			const side = cell.closest("svg").dataset.side, name = side + cell.dataset.h;
			if (!byHandle.has(name)) byHandle.set(name, []);
			byHandle.get(name).push(cell);
		}
		const line = cell => lines[cell.parentNode.dataset.r], layer = cell => line(cell).textContent;
		const owns = cell => cell.parentNode.classList.contains("own");

		function tell(cell) {
			const side = cell.closest("svg").dataset.side, group = byHandle.get(side + cell.dataset.h);
			const owner = group.find(owns), borrowers = group.filter(c => !owns(c)).map(layer);
			const blocks = cell.dataset.e ? `blocks ${cell.dataset.b} to ${cell.dataset.e}` : `block ${cell.dataset.b}`;
			const handles = cell.dataset.e ? `handles from #${cell.dataset.h}` : `handle #${cell.dataset.h}`;
			return [`${layer(cell)}, ${side}, ${blocks}`, `: ${handles} of ${size(Number(line(cell).dataset.bytes))}. `,
				`Owner: ${owner ? layer(owner) : "not seen"}`, borrowers.length ? "; " : ", nobody borrows it.",
				borrowers.length ? `borrowed by ${borrowers.join(", ")}` : ""];
		}
		function link(cell) {
			cells.forEach(c => c.classList.remove("linked"));
			byHandle.get(cell.closest("svg").dataset.side + cell.dataset.h).forEach(c => c.classList.add("linked"));
			say(readout, tell(cell));
		}
		for (const cell of cells) {
			cell.setAttribute("role", "img");
			cell.setAttribute("aria-label", tell(cell).join(""));
			cell.addEventListener("pointerenter", () => link(cell));
			cell.addEventListener("focus", () => link(cell));
		}
		map.addEventListener("pointerleave", () => cells.forEach(c => c.classList.remove("linked")));
		roving(cells, map);
	}

	/* ---- icicles ---- */

	for (const icicle of all("[data-frames]")) {
		const frames = all(".frame", icicle), readout = icicle.nextElementSibling;
		const root = frames.length ? Number(frames[0].dataset.bytes) : 0;
		for (const frame of frames) {
			const bytes = Number(frame.dataset.bytes), text = frame.querySelector("text").textContent;
			const tell = () => say(readout, [text, `: ${size(bytes)}, ${(root ? 100 * bytes / root : 0).toFixed(1)} %`]);
			frame.setAttribute("role", "img");
			frame.setAttribute("aria-label", frame.querySelector("title").textContent);
			frame.addEventListener("pointerenter", tell);
			frame.addEventListener("focus", tell);
		}
		roving(frames, icicle);
	}

	memoryChart();
})();
