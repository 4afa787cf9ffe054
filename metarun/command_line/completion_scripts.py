"""The scripts that `metarun completion SHELL` prints: each hands the half-typed line to `metarun _complete`."""

_BASH = r"""# tab completion of metarun for bash: eval "$(metarun completion bash)"
_metarun() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        COMPREPLY+=("$candidate")
    done < <("${1/#\~/$HOME}" _complete bash "${COMP_LINE:0:$COMP_POINT}" "$COMP_WORDBREAKS" 2> /dev/null)
}
complete -o nospace -F _metarun metarun
"""

_ZSH = r"""#compdef metarun
# tab completion of metarun for zsh: eval "$(metarun completion zsh)", or this text in a file _metarun of $fpath
_metarun() {
    local line word description more
    local -a whole whole_shown part part_shown
    while IFS=$'\t' read -r word description more; do
        if [[ -n $more ]]; then
            part+=("$word"); part_shown+=("$word${description:+  -- $description}")
        else
            whole+=("$word"); whole_shown+=("$word${description:+  -- $description}")
        fi
    done < <("${~words[1]}" _complete zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2> /dev/null)
    (( $#part )) && compadd -Q -S '' -ld part_shown -a part
    (( $#whole )) && compadd -Q -ld whole_shown -a whole
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _metarun "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    compdef _metarun metarun
fi
"""

_FISH = r"""# tab completion of metarun for fish: metarun completion fish | source
function __metarun_complete
    set -l program (commandline -opc)[1]
    eval "$program _complete fish (commandline -cp | string collect)" 2> /dev/null | string replace -r '\t\+?$' ''
end
complete -c metarun -e
complete -c metarun -f -a '(__metarun_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""Shell -> its script."""
