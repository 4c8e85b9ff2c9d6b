// SPDX-License-Identifier: MIT OR Apache-2.0
// Changes to queries: enough of PromQL to tell names from text in quotes.
{
  // Whether more matchers belong to a name. What is recorded comes of series that had them.
  local isScraped(word) =
    word == 'up'
    || (std.length(std.findSubstr(':', word)) == 0
        && (std.startsWith(word, 'ebpf_') || std.startsWith(word, 'process_'))),

  local isOfName(c) =
    (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == ':',

  // A word outside of quotes and the character after it, with `selector` and the label of clusters.
  local word(text, next, selector, cluster) =
    if text == 'cluster' then cluster + next
    else if selector == '' || !isScraped(text) then text + next
    else if next == '{' then text + '{' + selector + ','
    else text + '{' + selector + '}' + next,

  // `expr` with more matchers, and with another label for clusters.
  rewrite(expr, selector, cluster)::
    local from(at, done, name, quoted) =
      if at == std.length(expr) then done + word(name, '', selector, cluster)
      else
        local c = expr[at];
        if quoted then from(at + 1, done + c, '', c != '"') tailstrict
        else if isOfName(c) then from(at + 1, done, name + c, false) tailstrict
        else from(at + 1, done + word(name, c, selector, cluster), '', c == '"') tailstrict;
    from(0, '', '', false),

  // A comparison with a number at the end of `expr`: what is before the number, and the number. Null without one.
  local comparison(expr) =
    local words = std.split(std.rstripChars(expr, ' \n'), ' ');
    local last = words[std.length(words) - 1];
    local isNumber = last != '' && std.stripChars(last, '0123456789.') == '';
    if std.length(words) > 2 && isNumber && std.member(['>', '<', '>=', '<='], words[std.length(words) - 2])
    then { before: std.join(' ', words[:std.length(words) - 1]), number: std.parseJson(last) },

  // The threshold of an alert's expression; null if it does not end with one.
  threshold(expr)::
    local found = comparison(expr);
    if found != null then found.number,

  // `expr` with another threshold.
  withThreshold(expr, number):: '%s %g\n' % [comparison(expr).before, number],
}
