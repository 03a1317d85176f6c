#!/usr/bin/zsh -f
# Prints what an interactive zsh lists for a command line that is not finished.
# Arguments: the directory that has _dcgm-exporter, and the command line.
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "stty columns 200 rows 200; fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=1000"
# The marks are written in two pieces here, so that the terminal's echo of these lines has none.
zpty -w shell "show() { zle list-choices; zle -R; print 'LISTING''-ENDS' }; zle -N show; bindkey '^X^L' show"
# Keys that come before the line editor has set up the terminal may wait there for a minute.
zpty -w shell "ready() { print 'EDITOR''-READY' }; zle -N zle-line-init ready"
zpty -r -m shell answer '*EDITOR-READY*' || exit 1
zpty -w -n shell "$2"$'\x18\x0c'
zpty -r -m shell answer '*LISTING-ENDS*' || exit 1
print -r -- "$answer"
zpty -d shell
