"""Short texts of many types, for files to be made of."""

from __future__ import annotations

PROSE = (
    "The harbour was quiet that morning. Nets hung over the rails, and the last of the boats "
    "had gone out before the light. An old man sat on a crate and mended a sail with slow, even "
    "stitches; he did not look up when the children ran past, nor when the bell rang for the "
    "first time. Later he would say that he had known it by then.\n\n"
    "Nobody asked him what. In the village people had learned to wait until he told a story of "
    "his own accord, and he told few of them, and never the same one twice.\n"
)

TEXTS = {
    "python": '''"""Count the words of a text."""

from collections import Counter
import sys


class WordCounter:
    """Counts words, without regard to case."""

    def __init__(self, stop=()):
        self.stop = frozenset(stop)
        self.counts = Counter()

    def add(self, line):
        for word in line.lower().split():
            if word not in self.stop:
                self.counts[word] += 1


def main(argv=None):
    counter = WordCounter(stop={"the", "a", "of"})
    for line in sys.stdin:
        counter.add(line)
    for word, count in counter.counts.most_common(10):
        print(f"{count:6d} {word}")


if __name__ == "__main__":
    main()
''',
    "c": """#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINE 256

struct node {
    char *name;
    struct node *next;
};

static struct node *push(struct node *head, const char *name)
{
    struct node *n = malloc(sizeof(*n));
    if (n == NULL) {
        perror("malloc");
        exit(EXIT_FAILURE);
    }
    n->name = strdup(name);
    n->next = head;
    return n;
}

int main(int argc, char **argv)
{
    struct node *head = NULL;
    for (int i = 1; i < argc; i++)
        head = push(head, argv[i]);
    for (struct node *n = head; n != NULL; n = n->next)
        printf("%s\\n", n->name);
    return 0;
}
""",
    "java": """package org.example.shop;

import java.util.ArrayList;
import java.util.List;

public class Basket {
    private final List<Item> items = new ArrayList<>();

    public void add(Item item) {
        if (item == null) {
            throw new IllegalArgumentException("item must not be null");
        }
        items.add(item);
    }

    public long total() {
        long sum = 0;
        for (Item item : items) {
            sum += item.getPrice() * item.getQuantity();
        }
        return sum;
    }

    public static void main(String[] args) {
        Basket basket = new Basket();
        basket.add(new Item("tea", 299, 2));
        System.out.println("total: " + basket.total());
    }
}
""",
    "javascript": """'use strict';

const fs = require('fs');
const path = require('path');

function walk(folder, visit) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) {
      walk(full, visit);
    } else {
      visit(full);
    }
  }
}

const sizes = new Map();
walk(process.argv[2] || '.', (file) => {
  const kind = path.extname(file) || '(none)';
  sizes.set(kind, (sizes.get(kind) || 0) + fs.statSync(file).size);
});
console.log([...sizes.entries()].sort((a, b) => b[1] - a[1]));
module.exports = { walk };
""",
    "rust": """use std::collections::HashMap;
use std::io::{self, BufRead};

#[derive(Debug, Default)]
struct Counter {
    counts: HashMap<String, usize>,
}

impl Counter {
    fn add(&mut self, line: &str) {
        for word in line.split_whitespace() {
            *self.counts.entry(word.to_lowercase()).or_insert(0) += 1;
        }
    }
}

fn main() -> io::Result<()> {
    let mut counter = Counter::default();
    for line in io::stdin().lock().lines() {
        counter.add(&line?);
    }
    let mut pairs: Vec<_> = counter.counts.iter().collect();
    pairs.sort_by(|a, b| b.1.cmp(a.1));
    for (word, count) in pairs.iter().take(10) {
        println!("{:>6} {}", count, word);
    }
    Ok(())
}
""",
    "go": """package main

import (
\t"bufio"
\t"fmt"
\t"os"
\t"sort"
\t"strings"
)

func main() {
\tcounts := make(map[string]int)
\tscanner := bufio.NewScanner(os.Stdin)
\tfor scanner.Scan() {
\t\tfor _, word := range strings.Fields(scanner.Text()) {
\t\t\tcounts[strings.ToLower(word)]++
\t\t}
\t}
\tif err := scanner.Err(); err != nil {
\t\tfmt.Fprintln(os.Stderr, err)
\t\tos.Exit(1)
\t}
\twords := make([]string, 0, len(counts))
\tfor word := range counts {
\t\twords = append(words, word)
\t}
\tsort.Slice(words, func(i, j int) bool { return counts[words[i]] > counts[words[j]] })
\tfmt.Println(words)
}
""",
    "shell": """#!/bin/sh
# Back up a folder, keeping the last seven archives.
set -eu

source_folder=${1:?usage: backup.sh FOLDER [TARGET]}
target=${2:-/var/backups}
name=$(basename "$source_folder")
stamp=$(date +%Y%m%d-%H%M%S)

mkdir -p "$target"
tar -czf "$target/$name-$stamp.tar.gz" -C "$(dirname "$source_folder")" "$name"

ls -1t "$target/$name"-*.tar.gz | tail -n +8 | while read -r old; do
    echo "removing $old"
    rm -f -- "$old"
done
""",
    "html": """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Tide table</title>
  <link rel="stylesheet" href="style.css">
</head>
<body>
  <header><h1>Tides of the week</h1></header>
  <main>
    <table class="tides">
      <thead><tr><th>Day</th><th>High</th><th>Low</th></tr></thead>
      <tbody>
        <tr><td>Monday</td><td>06:12</td><td>12:25</td></tr>
        <tr><td>Tuesday</td><td>06:58</td><td>13:10</td></tr>
      </tbody>
    </table>
    <p>Times are local. <a href="/about.html">How they are made</a></p>
  </main>
</body>
</html>
""",
    "css": """:root {
  --ink: #1b1b1f;
  --paper: #fdfcf9;
}

body {
  margin: 0 auto;
  max-width: 44rem;
  padding: 1rem;
  color: var(--ink);
  background: var(--paper);
  font: 16px/1.5 Georgia, serif;
}

.tides td,
.tides th {
  border-bottom: 1px solid #ccc;
  padding: 0.25em 0.75em;
  text-align: right;
}

@media (max-width: 30em) {
  .tides th { display: none; }
}

a:hover { text-decoration: none; }
""",
    "json": """{
  "name": "tide-table",
  "stations": [
    {"id": 17, "name": "North pier", "position": [54.321, 8.912], "active": true},
    {"id": 18, "name": "Old lock", "position": [54.287, 8.899], "active": false}
  ],
  "units": {"height": "m", "time": "local"},
  "revision": 42,
  "note": null
}
""",
    "xml": """<?xml version="1.0" encoding="UTF-8"?>
<catalog xmlns="http://example.org/catalog">
  <station id="17">
    <name>North pier</name>
    <position lat="54.321" lon="8.912"/>
    <reading time="2024-03-01T06:12:00">3.42</reading>
    <reading time="2024-03-01T12:25:00">0.61</reading>
  </station>
  <station id="18">
    <name>Old lock</name>
    <position lat="54.287" lon="8.899"/>
  </station>
</catalog>
""",
    "yaml": """# Stations and how often they are read
defaults: &defaults
  interval: 10m
  retries: 3
stations:
  - name: north-pier
    <<: *defaults
    sensors: [level, wind]
  - name: old-lock
    interval: 1h
    retries: 1
    sensors:
      - level
alerts:
  enabled: true
  threshold: 4.25
""",
    "ini": """; settings of the reader
[general]
interval = 600
log_file = /var/log/tides.log
verbose = no

[station.north-pier]
id = 17
port = /dev/ttyS0
baud = 9600

[station.old-lock]
id = 18
port = /dev/ttyS1
baud = 9600
""",
    "csv": "station,time,height,wind,direction\n"
    + "".join(f"{17 + i % 2},2024-03-{i + 1:02d},{i * 7 % 40 / 10},{i},NW\n" for i in range(24)),
    "sql": """CREATE TABLE station (
    id INTEGER PRIMARY KEY,
    name VARCHAR(64) NOT NULL,
    active BOOLEAN DEFAULT TRUE
);

INSERT INTO station (id, name) VALUES (17, 'North pier'), (18, 'Old lock');

SELECT s.name, AVG(r.height) AS mean_height
FROM station AS s
JOIN reading AS r ON r.station_id = s.id
WHERE r.taken_at >= '2024-03-01' AND s.active
GROUP BY s.name
HAVING COUNT(*) > 10
ORDER BY mean_height DESC;
""",
    "markdown": """# Tide table

Reads the gauges and writes a table for the *harbour office*.

## Install

```sh
pip install tide-table
```

## Use

1. List the stations: `tides list`
2. Read one of them: `tides read 17 --last 24h`

| option | meaning | default |
|--------|---------|---------|
| `--last` | how far back | `24h` |
| `--units` | `m` or `ft` | `m` |

See the [manual](docs/manual.md) for more.

- [x] reading
- [ ] alerts
""",
    "diff": """diff --git a/reader.py b/reader.py
index 3b18e51..a0f3c9d 100644
--- a/reader.py
+++ b/reader.py
@@ -10,3 +10,5 @@ def read(port, baud=9600):
     with open_port(port, baud) as line:
-        value = line.readline()
+        value = line.readline().strip()
+        if not value:
+            raise Timeout(port)
     return float(value)
@@ -31,2 +33,2 @@ def main():
     for station in stations:
-        print(station)
+        print(station, read(station.port))
""",
    "txt": PROSE,
}
"""By the label that they should get."""
